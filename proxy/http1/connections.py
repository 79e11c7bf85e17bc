"""A worker's client connections: which of them wait for their client, and how such waits end.

At a stop the worker is waited for until its last connection has ended, and killed with whatever it
had to write when that takes too long. So no client may hold a connection by being slow.

The thing to get wrong: on a connection that seems idle a request may just have arrived.
"""

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from gunicorn.http.unreader import SocketUnreader

from proxy.yielding import turn_if_due

#: What one read takes: most requests come whole in the smaller, bodies in several of the larger.
_READ_SIZE: Final = 16 * 1024
_BODY_READ_SIZE: Final = 64 * 1024
#: How long, and for how many bytes, a client may go on sending after its last response.
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 16 * 1024 * 1024


class ClientBytes(SocketUnreader):  # type: ignore[misc]
    """What a client sends. Every loop over it, of heads, bodies or what is skipped of them, gives
    the other connections their turn here."""

    def __init__(self, client: Any) -> None:
        super().__init__(client, _READ_SIZE)
        self._reads = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """One read; ``size_hint``: bytes that are still wanted."""
        self._reads += 1
        if not self._reads & 7:
            turn_if_due()
        size = _READ_SIZE
        if size_hint and size_hint > size:
            size = size_hint if size_hint < _BODY_READ_SIZE else _BODY_READ_SIZE
        data: bytes = self.sock.recv(size)
        return data


def linger(client: Any) -> None:
    """Close ``client`` once it has read its last response, and not before: bytes that are unread
    at the end would have the kernel take back what is still on its way (RFC 9112 §9.6)."""
    ends = time.monotonic() + _LINGER_SECONDS
    left = _LINGER_BYTES
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while left > 0 and (rest := ends - time.monotonic()) > 0:
            client.settimeout(rest)
            data = client.recv(_BODY_READ_SIZE)
            if not data:
                break
            left -= len(data)
            turn_if_due()
    with contextlib.suppress(OSError):
        client.close()


class Connections:
    """One per worker; connections are gevent sockets."""

    def __init__(self) -> None:
        #: All of them.
        self.open: set[Any] = set()
        #: Those that wait for a request, or for what is left of one that has been answered →
        #: whether they wait for their next request, and since when they wait (monotonic seconds).
        self.idle: dict[Any, tuple[bool, float]] = {}

    def close_idle(self, chosen: Callable[[bool, float], bool]) -> None:
        """Close those of :attr:`idle` that are ``chosen``."""
        for client, (served, since) in list(self.idle.items()):
            if chosen(served, since):
                _shut_if_quiet(client)

    def end_waits(self) -> None:
        """From now on nobody waits for a byte of any client. What is being written goes on."""
        for client in self.open:
            with contextlib.suppress(OSError):
                # Not gevent's, which raises in whoever waits: he shall see the client's end.
                client._sock.shutdown(socket.SHUT_RD)  # noqa: SLF001


def _shut_if_quiet(client: Any) -> None:
    """End an idle connection, unless a request has just arrived on it."""
    try:
        client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # noqa: SLF001
    except BlockingIOError:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
