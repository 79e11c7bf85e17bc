"""Processes of the race: started on the cores they belong to, ended by their own process id."""

import atexit
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 120


class NotStarted(Exception):
    """A process of the race ended, or did not answer in time; the message has its log's end."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Started:
    """A process in its own group, pinned to ``cores`` from its first instruction on."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        cores: set[int],
        environ: Mapping[str, str] | None = None,
        nice: int = 0,
    ) -> None:
        self._log = folder / f"{Path(command[0]).name}-{time.monotonic_ns()}.log"
        before = os.sched_getaffinity(0)
        # The child inherits what the parent has at this moment: no window on the wrong core.
        os.sched_setaffinity(0, cores)
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    ["nice", "-n", str(nice), *command] if nice else [*command],
                    cwd=folder,
                    env={"PATH": os.environ["PATH"], "HOME": str(folder), **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        finally:
            os.sched_setaffinity(0, before)
        # Its own session gets no Ctrl-C; whatever ends the race, nothing stays behind.
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        return self._process.pid

    def output(self) -> str:
        """What it has written to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def wait_port(self, port: int) -> None:
        """Until something accepts connections there."""
        deadline = time.monotonic() + START_SECONDS
        while self._alive_before(deadline):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)

    def wait_ok(self, port: int, path: str) -> None:
        """Until that path is answered with 200."""
        deadline = time.monotonic() + START_SECONDS
        while self._alive_before(deadline):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            with contextlib.suppress(OSError, http.client.HTTPException), closing(connection):
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.05)

    def _alive_before(self, deadline: float) -> bool:
        if self._process.poll() is None and time.monotonic() < deadline:
            return True
        self.stop()
        raise NotStarted(self.output()[-2000:])

    def stop(self) -> None:
        """SIGTERM and ten seconds; then the whole group is killed. More than once is fine."""
        atexit.unregister(self.stop)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def start_python(
    arguments: Sequence[str],
    *,
    folder: Path,
    cores: set[int],
    environ: Mapping[str, str] | None = None,
    nice: int = 0,
) -> Started:
    """Starts the Python that runs the race; it finds the packages of the checkout."""
    return Started(
        [sys.executable, *arguments],
        folder=folder,
        cores=cores,
        environ={"PYTHONPATH": str(ROOT), **(environ or {})},
        nice=nice,
    )
