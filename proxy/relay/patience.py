"""Waiting for an upstream's next bytes, and the end of it when they do not come.

A timer for each wait costs as much as all else that is done with a small event; so there is one
look at everybody who waits, a few times within the time allowed. An upstream that is silent is
given up within an eighth of that time, or a second, after it is over.
"""

import time
from typing import Any, Final

import gevent
import gevent.socket

_LONGEST_STEP: Final = 1.0


class Patience:
    """For the plain waits on all sockets of one origin."""

    def __init__(self) -> None:
        # Sockets that are waited for → when that is over, on the monotonic clock.
        self._until: dict[Any, float] = {}
        # Between two looks; None while nobody looks, which is while nobody waits.
        self._step = _LONGEST_STEP
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def wait(self, sock: Any) -> None:
        """Until ``sock``, a gevent socket, can be read; TimeoutError after its own timeout."""
        seconds = sock.timeout
        if seconds is not None:
            self._until[sock] = time.monotonic() + seconds
            if self._greenlet is None or seconds / 8 < self._step:
                self._look_after(seconds / 8)
        try:
            gevent.socket.wait(sock._read_event)  # noqa: SLF001  (`wait_read` makes another)
        finally:
            self._until.pop(sock, None)

    def _look_after(self, step: float) -> None:
        self._step = min(self._step, step)
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._greenlet = gevent.spawn(self._look)

    def _look(self) -> None:
        while self._until:
            gevent.sleep(self._step)
            now = time.monotonic()
            for sock, until in list(self._until.items()):
                if until <= now:
                    gevent.socket.cancel_wait(sock._read_event, TimeoutError("timed out"))  # noqa: SLF001
        self._greenlet = None
