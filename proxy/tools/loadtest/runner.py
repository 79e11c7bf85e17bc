"""The load of ``manage.py bench``: N connections that send the next request after each response.

One thread and one ``select`` over raw sockets. On threads, a latency would include the wait for the
interpreter lock, up to 5 ms a switch; in greenlets or asyncio, the client's work on every response
that was ready before. Here all responses that one ``select`` reports get its time, parsing is a
search for the head's end and its lines, and a request is one write on a kept-alive connection.

Note: the client's remaining cost still counts where the client has no processor to itself.
:attr:`Load.cpu_seconds` says how much it worked.
"""

import gc
import itertools
import selectors
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proxy.tools.loadtest.connection import Asked, Client, Sample

#: A model may think for minutes.
_SILENCE_SECONDS: Final = 600.0
#: A tick draws the progress, which takes a millisecond without reading.
_TICK_SECONDS: Final = 0.5

_Steps = Generator[None, float, Sample | None]


class Load:
    """The load on one side of a benchmark. Its connections stay open between turns.

    ``samples`` are in the order in which the responses ended. ``seconds`` is the time of all turns,
    without connecting at the start of a turn.
    """

    def __init__(self, asked: Asked, concurrency: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients = [Client(asked, self._selector) for _ in range(concurrency)]
        # Waiting clients → their generator; and since when, to end those that wait forever.
        self._running: dict[Client, _Steps] = {}
        self._since: dict[Client, float] = {}
        self.samples: list[Sample] = []
        self.seconds = 0.0
        self.cpu_seconds = 0.0

    @property
    def connections(self) -> int:
        """How many connections were opened so far."""
        return sum(client.channel.opened for client in self._clients)

    def forget(self) -> None:
        """Discards the measurements so far; the connections stay."""
        self.samples.clear()
        self.seconds = self.cpu_seconds = 0.0

    def close(self) -> None:
        self._running.clear()
        for client in self._clients:
            client.channel.close()
        self._selector.close()

    def turn(self, requests: int, tick: Callable[[int], None]) -> None:
        """Sends ``requests`` and waits for their responses. Calls ``tick(finished)`` periodically.

        Measurements up to an exception (Ctrl-C) count.
        """
        clients = self._clients[:requests]
        for client in clients:
            self._start(client, client.connect())
        self._work((), lambda: None)
        before = len(self.samples)
        gc.collect()
        gc.disable()  # a collection would look like latency
        began, worked = time.perf_counter(), time.process_time()
        try:
            calls = itertools.repeat(Client.call, requests)
            for client in clients:
                self._next(client, calls)
            self._work(calls, lambda: tick(len(self.samples) - before))
        finally:
            self.seconds += time.perf_counter() - began
            self.cpu_seconds += time.process_time() - worked
            gc.enable()
        tick(requests)

    def _next(self, client: Client, jobs: Iterable[Callable[[Client], _Steps]]) -> None:
        for job in jobs:
            if self._start(client, job(client)):
                return

    def _start(self, client: Client, steps: _Steps) -> bool:
        """Starts ``steps``. Returns whether it waits; otherwise it has already ended."""
        try:
            next(steps)
        except StopIteration as end:
            self._add_sample(end.value)
            return False
        self._running[client] = steps
        self._since[client] = time.perf_counter()
        return True

    def _add_sample(self, sample: Sample | None) -> None:
        if sample is not None:
            self.samples.append(sample)

    def _work(self, jobs: Iterable[Callable[[Client], _Steps]], tick: Callable[[], None]) -> None:
        """Runs until no client waits. A client that has ended starts the next of ``jobs``."""
        due = time.perf_counter() + _TICK_SECONDS
        while self._running:
            ready = self._selector.select(1.0)
            now = time.perf_counter()
            for key, _ in ready:
                self._go_on(key.data, now, jobs)
            if now >= due:
                self._end_the_silent(now, jobs)
                tick()
                due = time.perf_counter() + _TICK_SECONDS

    def _go_on(
        self, client: Client, now: float, jobs: Iterable[Callable[[Client], _Steps]]
    ) -> None:
        steps = self._running.get(client)
        if steps is None:  # the client is idle, and the server closed the connection
            client.channel.close()
            return
        self._since[client] = now
        try:
            steps.send(now)
        except StopIteration as end:
            del self._running[client]
            self._add_sample(end.value)
            self._next(client, jobs)

    def _end_the_silent(self, now: float, jobs: Iterable[Callable[[Client], _Steps]]) -> None:
        for client, steps in list(self._running.items()):
            if now - self._since[client] > _SILENCE_SECONDS:
                try:
                    steps.throw(TimeoutError("timed out"))
                except StopIteration as end:
                    del self._running[client]
                    self._add_sample(end.value)
                    self._next(client, jobs)


_MAX_TURNS: Final = 10
#: The start and end of a turn, when not every connection is busy, must not matter much.
_REQUESTS_PER_CONNECTION: Final = 4


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    url: str
    load: Load


def measured(sides: Sequence[Side], requests: int, concurrency: int, warmup: int) -> bool:
    """Measures all sides. Returns whether it reached the end, which Ctrl-C can prevent."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # The progress is drawn on request: a drawing thread would take the processor at any time.
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

        def tick(finished: int) -> None:
            progress.update(task, completed=done + finished, refresh=True)

        for side in sides if warmup else ():
            side.load.turn(warmup, tick)
            side.load.forget()
            done += warmup
        for number, count in enumerate(turns(requests, concurrency, len(sides))):
            # The first side alternates, too.
            for side in sides if number % 2 == 0 else reversed(sides):
                progress.update(task, description=side.name)
                side.load.turn(count, tick)
                done += count
        return True
    return False


def turns(requests: int, concurrency: int, sides: int) -> list[int]:
    """Returns the number of requests of each turn, ``requests`` together."""
    most = requests // (concurrency * _REQUESTS_PER_CONNECTION)
    turns = 1 if sides == 1 else min(requests, max(2, min(_MAX_TURNS, most)))
    return [requests // turns + (number < requests % turns) for number in range(turns)]
