"""What a scenario is: one measurement of one contender, repeated in rounds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench.columns import Column
from bench.contenders.base import Contender, Running, Site
from bench.figures import Figures
from bench.load.message import chat


@dataclass(frozen=True)
class Bench:
    """Where one measurement happens: its own folder, whose cores, how long.

    A process is started for each measurement and stopped after it: no contender runs while another
    is measured, and memory is that of a fresh process.
    """

    folder: Path
    contender: Contender
    contender_cores: set[int]
    load_cores: set[int]
    quick: bool

    def in_folder(self, folder: Path) -> "Bench":
        return replace(self, folder=folder)

    @contextmanager
    def running(
        self, upstream_port: int, *, workers: int = 1, cores: set[int] | None = None
    ) -> Iterator[Running]:
        site = Site(self.folder, upstream_port, cores or self.contender_cores, workers)
        running = self.contender.start(site)
        try:
            running.settle()
            yield running
        finally:
            running.stop()


class Scenario(Protocol):
    """``name`` as on the command line, ``title`` as in the tables."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...

    def takes(self, contender: Contender) -> bool:
        """Whether this one can take part."""

    def run(self, bench: Bench) -> Figures:
        """One round.

        Raises:
            NotStarted: Something did not start.
            LoadFailed: The contender did not answer as it should.
        """


def request_for(running: Running, *, stream: bool = False) -> bytes:
    return chat(running.port, running.token, running.headers, stream=stream)


def direct_request(port: int, *, stream: bool = False) -> bytes:
    """The same request, to the upstream itself."""
    return chat(port, "sk-upstream", {}, stream=stream)
