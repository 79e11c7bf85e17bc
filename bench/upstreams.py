"""The upstreams of a race, on the core of the load."""

from pathlib import Path

from bench.processes import Started, free_port, start_python
from bench.servers import nginx
from bench.servers.chat import ANSWER, HEADERS


class Upstream:
    """One that answers; stopped by ``stop``."""

    def __init__(self, port: int, process: Started, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self._process = process

    def bytes_sent(self) -> list[int]:
        """Of each file whose sending has ended, whole or not (``at_once`` only)."""
        log = self.folder / "sent.log"
        return [int(line) for line in log.read_text().splitlines()] if log.exists() else []

    def stop(self) -> None:
        self._process.stop()


def at_once(folder: Path, cores: set[int]) -> Upstream:
    """nginx: a chat completion at once; files of ``folder/large``."""
    port = free_port()
    config = nginx.upstream(folder / "upstream", port, ANSWER, HEADERS)
    process = Started(
        ["nginx", "-p", str(config.parent), "-c", str(config), "-e", "stderr"],
        folder=folder,
        cores=cores,
    )
    process.wait_port(port)
    return Upstream(port, process, config.parent)


def streaming(
    folder: Path, cores: set[int], *, events: int, interval: float, server: str = "sse"
) -> Upstream:
    """Server-sent events, ``interval`` seconds apart. ``server``: its module in `bench.servers`."""
    port = free_port()
    process = start_python(
        ["-m", f"bench.servers.{server}", str(port), str(events), str(interval)],
        folder=folder,
        cores=cores,
    )
    process.wait_port(port)
    return Upstream(port, process, folder)
