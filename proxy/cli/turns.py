"""A benchmark's course: warm-up, then each side in turns, with a progress bar.

In turns, because what else the machine or the network does changes by the minute: one side after
the other would compare two minutes. The thing to get wrong: who begins takes turns, too.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.cli.load import Load

_MOST_TURNS: Final = 10
#: A turn's begin and end, when not every connection is busy, must not matter much.
_REQUESTS_PER_CONNECTION: Final = 4


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    url: str
    load: Load


def measured(sides: Sequence[Side], requests: int, concurrency: int, warmup: int) -> bool:
    """Whether it was measured to the end, which Ctrl-C can prevent."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # It draws when it is told to: a thread that does would take the processor at any time.
    with (
        suppress(KeyboardInterrupt),
        Progress(
            *columns,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        ) as progress,
    ):
        task = progress.add_task("warming up", total=len(sides) * (requests + warmup))
        done = 0

        def tick(answered: int) -> None:
            progress.update(task, completed=done + answered, refresh=True)

        for side in sides if warmup else ():
            side.load.turn(warmup, tick)
            side.load.forget()
            done += warmup
        for number, count in enumerate(turns(requests, concurrency, len(sides))):
            # Who begins takes turns, too.
            for side in sides if number % 2 == 0 else reversed(sides):
                progress.update(task, description=side.name)
                side.load.turn(count, tick)
                done += count
        return True
    return False


def turns(requests: int, concurrency: int, sides: int) -> list[int]:
    """How many requests each turn has, together ``requests``."""
    most = requests // (concurrency * _REQUESTS_PER_CONNECTION)
    turns = 1 if sides == 1 else min(requests, max(2, min(_MOST_TURNS, most)))
    return [requests // turns + (number < requests % turns) for number in range(turns)]
