"""What a contender is: something that can be started in front of an upstream."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from bench.accounting import cpu_seconds, worker_rss_bytes
from bench.eventlog import EventLog
from bench.processes import Started, start_python

#: For a contender that checks none.
ANY_TOKEN: Final = "sk-0123456789abcdefghijkl"  # noqa: S105
SETTLE_SECONDS: Final = 20
#: Seconds between two looks at its CPU time, and the share of a core that counts as idle.
_LOOK: Final = 0.5
_IDLE: Final = 0.05


@dataclass(frozen=True)
class Site:
    """Where one is to be started."""

    folder: Path
    upstream_port: int
    cores: set[int]
    workers: int = 1

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def start_python(
        self, arguments: Sequence[str], port: int, environ: Mapping[str, str]
    ) -> Started:
        """A server on the Python that runs the race. Returns when `/ready` responds with 200.

        It reads `PORT` and `WEB_CONCURRENCY`.

        Raises:
            NotStarted: It ended, or did not respond in time.
        """
        process = start_python(
            arguments,
            folder=self.folder,
            cores=self.cores,
            environ={"PORT": str(port), "WEB_CONCURRENCY": str(self.workers), **environ},
        )
        process.wait_ok(port, "/ready")
        return process


@dataclass(frozen=True)
class Running:
    """A contender that answers. ``headers`` are those that only it needs.

    ``events``: where it writes a line for each request, None for one that records nothing.
    """

    port: int
    token: str
    process: Started
    headers: Mapping[str, str] = field(default_factory=dict)
    events: EventLog | None = None

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

    def settle(self) -> None:
        """Until it is idle, `SETTLE_SECONDS` at most: it answers before all of it has started, and
        what a process beside it still imports is not what a request costs."""
        used = self.cpu_seconds()
        for _ in range(int(SETTLE_SECONDS / _LOOK)):
            time.sleep(_LOOK)
            before, used = used, self.cpu_seconds()
            if used - before < _IDLE * _LOOK:
                return

    def recorded(self) -> int:
        """How many requests it has recorded."""
        return 0 if self.events is None else self.events.lines()

    def missing_events(self, since: int, answered: int) -> int:
        """Wait for the work that is left when the load ends: a line for each of ``answered``
        requests, and what follows it. Returns how many lines are missing; ``since`` is what
        :meth:`recorded` returned before the load."""
        missing = 0 if self.events is None else self.events.wait(since + answered)
        self.settle()
        return missing

    def rss_bytes(self) -> int:
        return worker_rss_bytes(self.process.pid)

    def stop(self) -> None:
        self.process.stop()


class Contender(Protocol):
    """``any_path`` says whether it relays what is not a chat."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def any_path(self) -> bool: ...

    def missing(self) -> str:
        """What to install, or empty."""

    def version(self) -> str:
        """Its release, or empty: ours, or nginx's, which is noted with the machine."""

    def start(self, site: Site) -> Running:
        """Returns when it answers.

        Raises:
            NotStarted: It ended, or did not answer in time.
        """
