"""What all of them are: one program of our own, in a folder of its own."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.ports import free_port

START_TIMEOUT = 60.0


def missing(what: str, how: str) -> None:
    """Skips the test, in one line; fails it where ``REQUIRE_SERVICES=1`` (CI)."""
    message = f"{what} is not installed: {how}"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def program(*names: str) -> str | None:
    """The first of ``names`` that is installed."""
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/local/sbin"
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def require(*names: str, package: str) -> str:
    """As :func:`program`; without any of them the test is skipped, see :func:`missing`."""
    found = program(*names)
    if found is None:
        missing(names[0], f"apt-get install {package}")
    assert found is not None
    return found


class Process:
    """Entering starts it; leaving ends it and its folder."""

    #: What it ends by; SIGTERM waits for clients in some.
    end_signal = signal.SIGTERM

    def __init__(self) -> None:
        self.port = free_port()
        # /tmp, not pytest's long folder: a unix socket's path has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-service-", dir="/tmp"))
        self.log = self.folder / "log"
        #: Of subprocess.Popen: whom it runs as.
        self.run_as: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """Once, before the first start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def run(self) -> None:
        """Start it, for the first time or again after :meth:`halt`; waits until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, **self.run_as
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._fail(f"{type(self).__name__} did not start")
            time.sleep(0.05)

    def run_once(self, command: list[str]) -> None:
        """To its end, which must be a good one."""
        with self.log.open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, check=False, cwd=self.folder, **self.run_as
            )
        if done.returncode != 0:
            self._fail(f"{command[0]} failed")

    def halt(self) -> None:
        """End the server; its data stay."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(self.end_signal)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.run()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fail(self, what: str) -> None:
        pytest.fail(f"{what}:\n{self.log.read_text()}", pytrace=False)
