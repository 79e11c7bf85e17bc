"""What a contender is: something that can be started in front of an upstream."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.accounting import cpu_seconds, worker_rss_bytes
from bench.processes import Started


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


@dataclass(frozen=True)
class Running:
    """A contender that answers. ``headers`` are those that only it needs."""

    port: int
    token: str
    process: Started
    headers: Mapping[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.process.pid)

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
