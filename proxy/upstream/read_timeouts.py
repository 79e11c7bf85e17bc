"""Waiting for an upstream's next bytes, and the end of it when they do not come.

A timer for each wait costs as much as all else that is done with a small event; so there is one
look at everybody who waits, a few times within the time allowed. An upstream that is silent is
given up within an eighth of that time, or a second, after it is over.

The thing to get wrong: whoever is given up is told a moment later, and by then the same socket may
be waited for again, for another client. So what is ended is a wait, and not that of a socket.
"""

import socket
import time
from typing import Any, Final

import gevent
import gevent.socket

_LONGEST_STEP: Final = 1.0
_PEEK: Final = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)

#: When it is over, on the monotonic clock, and the greenlet that waits.
Wait = tuple[float, Any]


class ReadTimeouts:
    """For the waits on all sockets of one origin."""

    def __init__(self) -> None:
        self._waits: dict[Any, Wait] = {}
        # Seconds between two looks, and the greenlet that looks, while somebody waits.
        self._step = _LONGEST_STEP
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def wait(self, sock: Any) -> None:
        """Until ``sock``, a gevent socket, can be read; TimeoutError after its own timeout."""
        seconds = sock.timeout
        if seconds is not None:
            self._waits[sock] = time.monotonic() + seconds, gevent.getcurrent()
            if self._greenlet is None or seconds / 8 < self._step:
                self._look_each(seconds / 8)
        try:
            gevent.socket.wait(sock._read_event)  # noqa: SLF001  (`wait_read` makes another)
        finally:
            self._waits.pop(sock, None)

    def _look_each(self, step: float) -> None:
        self._step = min(self._step, step)
        if self._greenlet is not None:
            self._greenlet.kill(block=False)
        self._greenlet = gevent.spawn(self._look)

    def _look(self) -> None:
        while self._waits:
            gevent.sleep(self._step)
            now = time.monotonic()
            loop = gevent.get_hub().loop
            for sock, wait in list(self._waits.items()):
                if wait[0] <= now:
                    loop.run_callback(self._give_up, sock, wait)
        if self._greenlet is gevent.getcurrent():
            self._greenlet = None

    def _give_up(self, sock: Any, wait: Wait) -> None:
        """In the hub, so throwing switches at once."""
        if self._waits.get(sock) is wait and not _has_bytes(sock):
            wait[1].throw(TimeoutError("timed out"))


def _has_bytes(sock: Any) -> bool:
    """Whether something came, or the end: then the wait ends well, however late."""
    try:
        sock._sock.recv(1, _PEEK)  # noqa: SLF001  (the plain socket: TLS takes no flags)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
