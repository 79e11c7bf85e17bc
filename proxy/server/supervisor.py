"""What gunicorn's master does beside its workers: it starts the shipper, watches it and ends it.

The shipper is executed, not forked, so that it inherits neither the patches nor the sockets. Its
end is noticed through a pidfd, because the arbiter's own ``waitpid(-1)`` takes the exit status of
every child. The other end of its standard input is open here and, through the fork, in the workers:
it reads the end of file when the last of them is gone, even if they were killed, and then finishes.

The thing to get wrong: a greenlet of the master exists in every worker as well, after the fork.
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

from proxy.settings.settings import Settings

_log = logging.getLogger(__name__)

_MANAGE: Final = Path(__file__).resolve().parents[2] / "manage.py"
#: Seconds between two starts of a shipper that ends at once, growing; one that ran longer than the
#: last of them is started again after the first.
_PAUSES: Final = (1.0, 2.0, 5.0, 15.0, 60.0)
#: gevent's own would watch the child with a second `waitpid`.
_posix_spawn = monkey.get_original("os", "posix_spawn")
#: gevent's own closes when its loop comes round to it; the shipper waits for this one.
_close = monkey.get_original("os", "close")


class ShipperSupervisor:
    """One at a time; after a reload the one before it may still be finishing."""

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._master = os.getpid()
        self._watcher: gevent.Greenlet[[], None] | None = None
        # The running one: its pidfd, and our end of its standard input.
        self._pidfd: int | None = None
        self._pipe: int | None = None
        # Of those that have been told to finish.
        self._finishing: list[int] = []

    def apply(self, settings: Settings) -> None:
        """At the start and at every reload, before workers are forked: they inherit the pipe."""
        if settings == self._settings:
            return
        self._settings = settings
        self._release()
        if settings.events.shipper == "on":
            self._master = os.getpid()
            self._begin()
            self._watcher = gevent.spawn(self._keep)

    def end(self, timeout: float) -> None:
        """When the workers are gone: let it finish, for ``timeout`` seconds at the most."""
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

    def _begin(self) -> None:
        theirs, self._pipe = os.pipe()
        try:
            pid = _posix_spawn(
                sys.executable,
                [sys.executable, str(_MANAGE), "events", "ship", "--attached"],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0), *_closed()],
                # Ctrl-C in a terminal is for the master. No session of its own, where Linux groups
                # by sessions: it would get as much of a core as all workers, whatever its nice.
                setpgroup=0,
            )
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            _log.error("the shipper cannot be started: %s", error)
            self._pidfd = None
        finally:
            _close(theirs)

    def _release(self) -> None:
        """The running one finishes when all who have its pipe are gone."""
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

    def _keep(self) -> None:
        fast = 0
        while True:
            begun = time.monotonic()
            if self._pidfd is not None:
                wait_read(self._pidfd)
                if os.getpid() != self._master:
                    return
                os.close(self._pidfd)
                self._pidfd = None
            self._close_pipe()
            fast = 0 if time.monotonic() - begun > _PAUSES[-1] else fast
            pause = _PAUSES[min(fast, len(_PAUSES) - 1)]
            fast += 1
            _log.error("the shipper has ended; its events are kept, and it starts in %g s", pause)
            gevent.sleep(pause)
            if os.getpid() != self._master:
                return
            self._begin()


def _closed() -> list[tuple[int, int]]:
    """What the shipper would inherit, the listening sockets above all: gunicorn keeps them open
    for a master that may come after it."""
    with os.scandir("/proc/self/fd") as found:
        numbers = [int(entry.name) for entry in found]
    closed = []
    for number in numbers:
        with contextlib.suppress(OSError):  # the folder's own, which is closed by now
            if number > 2 and os.get_inheritable(number):
                closed.append((os.POSIX_SPAWN_CLOSE, number))
    return closed


def _ended(pidfd: int, timeout: float) -> bool:
    try:
        wait_read(pidfd, timeout=timeout)
    except TimeoutError:
        return False
    return True


#: Survives a reload, which executes gunicorn.conf.py anew.
shipper: Final = ShipperSupervisor()
