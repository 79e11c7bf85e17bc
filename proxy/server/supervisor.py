"""The shipper, supervised by gunicorn's master: started, watched and ended.

The shipper is executed, not forked, so that it inherits neither gevent's patches nor the sockets.
The supervisor notices its end through a pidfd, because the arbiter's own `waitpid(-1)` takes the
exit status of every child. The other end of the shipper's standard input is open in the master and,
through the fork, in the workers. So the shipper reads the end of file when the last of them is
gone, even if they were killed, and then finishes.

Note: after the fork, a greenlet of the master exists in every worker as well.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import gevent
from gevent import monkey
from gevent.socket import wait_read

from proxy.runtime.backoff import Backoff
from proxy.settings.settings import Settings

_log = logging.getLogger(__name__)

_MANAGE: Final = Path(__file__).resolve().parents[2] / "manage.py"
#: Pauses before a shipper that ended is started again. One that ran for longer than the longest
#: pause is started again after the first.
_MIN_PAUSE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 60.0
#: gevent's version would watch the child with a second `waitpid`.
_posix_spawn = monkey.get_original("os", "posix_spawn")
#: gevent's version closes later, from its loop; the shipper waits for this descriptor.
_close = monkey.get_original("os", "close")


class ShipperSupervisor:
    """One running shipper at a time. After a reload, the one before it may still be finishing."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._master = os.getpid()
        self._watcher: gevent.Greenlet[[], None] | None = None
        # The running shipper: its pidfd, and this end of its standard input.
        self._pidfd: int | None = None
        self._pipe: int | None = None
        # The pidfds of shippers that have been asked to finish.
        self._finishing: list[int] = []

    def apply(self, settings: Settings) -> None:
        """Start the shipper that `settings` ask for, if they have changed.

        Called at the start and at every reload, before workers are forked: they inherit the pipe.
        """
        if settings == self._settings:
            return
        self._settings = settings
        self._release()
        if settings.events.shipper == "on":
            self._master = os.getpid()
            self._start()
            self._watcher = gevent.spawn(self._restart_loop)

    def end(self, timeout: float) -> None:
        """Let the shipper finish, for at most `timeout` seconds, then kill it.

        Called when the workers are gone.
        """
        self._settings = None
        self._release()
        deadline = time.monotonic() + timeout
        for pidfd in self._finishing:
            if not _ended(pidfd, max(0.0, deadline - time.monotonic())):
                _log.warning("the shipper does not end: killed; what it left is in the spool")
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        self._finishing.clear()

    def _start(self) -> None:
        standard_input, self._pipe = os.pipe()
        try:
            pid = _posix_spawn(
                sys.executable,
                [sys.executable, str(_MANAGE), "events", "ship", "--attached"],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, standard_input, 0), *_close_inherited()],
                # Ctrl-C in a terminal is for the master. Not a session of its own, because Linux
                # schedules by session: the shipper would get as much of a core as all workers
                # together, whatever its nice value.
                setpgroup=0,
            )
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            _log.error("the shipper cannot be started: %s", error)
            self._pidfd = None
        finally:
            _close(standard_input)

    def _release(self) -> None:
        """Release the running shipper: it finishes when every process with its pipe has ended."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.kill()
        if self._pidfd is not None:
            self._finishing.append(self._pidfd)
        self._close_pipe()
        self._pidfd = None

    def _close_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            _close(pipe)

    def _restart_loop(self) -> None:
        backoff = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        while True:
            started = time.monotonic()
            if self._pidfd is not None:
                wait_read(self._pidfd)
                if os.getpid() != self._master:
                    return
                os.close(self._pidfd)
                self._pidfd = None
            self._close_pipe()
            if time.monotonic() - started > _MAX_PAUSE_SECONDS:
                backoff.reset()
            pause = backoff.pause()
            _log.error("the shipper has ended; its events are kept, and it starts in %.1f s", pause)
            gevent.sleep(pause)
            if os.getpid() != self._master:
                return
            self._start()


def _close_inherited() -> list[tuple[int, int]]:
    """File actions that close what the shipper would inherit.

    These are above all the listening sockets, which gunicorn keeps open for a succeeding master.
    """
    with os.scandir("/proc/self/fd") as found:
        numbers = [int(entry.name) for entry in found]
    closed = []
    for number in numbers:
        with contextlib.suppress(OSError):  # the scanned folder's own, closed by now
            if number > 2 and os.get_inheritable(number):
                closed.append((os.POSIX_SPAWN_CLOSE, number))
    return closed


def _ended(pidfd: int, timeout: float) -> bool:
    try:
        wait_read(pidfd, timeout=timeout)
    except TimeoutError:
        return False
    return True


#: Survives a reload, which executes gunicorn.conf.py again.
shipper: Final = ShipperSupervisor()
