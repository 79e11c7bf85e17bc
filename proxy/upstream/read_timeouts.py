"""Read timeouts without a timer per read: one sweeper task checks all waiting reads.

A timer for each wait costs as much as all other work on a small event. So the sweeper runs a few
times within each timeout. A silent upstream times out late by at most an eighth of the timeout,
and never by more than 1 s.

Note: the throw happens a moment after the check. By then another read, for another client, may wait
on the same socket. So a timeout targets a wait, not a socket.
"""

import logging
import socket
import time
from typing import Any, Final

import gevent
import gevent.socket

from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

_MAX_INTERVAL_SECONDS: Final = 1.0
_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

#: The deadline of a wait on the monotonic clock, and the greenlet that waits.
Wait = tuple[float, Any]


class ReadTimeouts:
    """The waits on all sockets of one origin."""

    def __init__(self) -> None:
        self._waits: dict[Any, Wait] = {}
        # Seconds between two sweeps, and the sweeper, which runs while there are waits.
        self._interval = _MAX_INTERVAL_SECONDS
        self._sweeper = PeriodicTask(
            self._sweep,
            lambda: self._interval if self._waits else None,
            failure="read timeouts: a sweep failed",
            log=_log,
            first_pause=lambda: self._interval,
        )

    def wait(self, sock: Any) -> None:
        """Wait until a gevent socket is readable. Raises TimeoutError after its timeout."""
        seconds = sock.timeout
        if seconds is not None:
            self._waits[sock] = time.monotonic() + seconds, gevent.getcurrent()
            if not self._sweeper.started or seconds / 8 < self._interval:
                self._sweep_every(seconds / 8)
        try:
            gevent.socket.wait(sock._read_event)  # noqa: SLF001  (`wait_read` makes another)
        finally:
            self._waits.pop(sock, None)

    def _sweep_every(self, interval: float) -> None:
        self._interval = min(self._interval, interval)
        if self._sweeper.started:
            self._sweeper.wake()  # the pause after this early sweep is the shorter one
        else:
            self._sweeper.start()

    def _sweep(self) -> None:
        now = time.monotonic()
        loop = gevent.get_hub().loop
        for sock, wait in list(self._waits.items()):
            if wait[0] <= now:
                loop.run_callback(self._time_out, sock, wait)

    def _time_out(self, sock: Any, wait: Wait) -> None:
        """End one wait. Runs in the hub, so the throw switches at once."""
        if self._waits.get(sock) is wait and not _has_bytes(sock):
            wait[1].throw(TimeoutError("timed out"))


def _has_bytes(sock: Any) -> bool:
    """Whether bytes or the end have come: the wait then succeeds, however late."""
    try:
        sock._sock.recv(1, _PEEK)  # noqa: SLF001  (the plain socket: TLS takes no flags)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
