"""A worker's client connections: which of them wait for their client, and how such waits end.

At a stop the worker is waited for until its last connection has ended, and killed with whatever it
had to write when that takes too long. So no client may hold a connection by being slow.

The thing to get wrong: on a connection that seems idle a request may just have arrived.
"""

import contextlib
import socket
from collections.abc import Callable
from typing import Any


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
