"""Waking a request that waits: its client has left, or we must end it.

A greenlet that waits for an upstream notices nothing of its client until it writes. So while it
waits, an I/O watcher peeks at the client's socket, and throws into the greenlet.

The thing to get wrong: the exception may surface at *any* wait of that greenlet. So a watcher runs
only from the moment the request's body has been read until the answer's end, and no code in
between holds anything that must not be dropped.
"""

import socket
from collections.abc import Callable
from typing import Any

import gevent
from gevent import GreenletExit, get_hub


class Interruption(GreenletExit):
    """Thrown into the greenlet of a request.

    No ``Exception``: nothing on the way out may take it for an error of its own and go on.
    """

    #: Our error code, as events tell it; None when nobody but the client ended it.
    code: str | None = None


class ClientGone(Interruption):
    """The client closed its connection. A half-closed one counts as gone."""


class Drained(Interruption):
    """The server is stopping and the time for running answers is over."""

    code = "draining"


class ClientWatcher:
    """Peeks at the client's socket and throws :class:`ClientGone` into the greenlet that made it.

    Plain TCP only. Bytes of a next, pipelined request are no sign of leaving: watching ends there,
    since from then on a closed connection cannot be told from an open one.
    """

    __slots__ = ("_client", "_greenlet", "_watcher")

    def __init__(self, client: Any) -> None:
        """``client`` is a gevent socket."""
        # None once stopped.
        self._client: Any = client
        self._greenlet = gevent.getcurrent()
        self._watcher: Any = None

    def start(self) -> None:
        """Idempotent."""
        if self._watcher is None and self._client is not None and self._client.fileno() >= 0:
            # The socket's own: nobody reads from it while it is watched, and another one would have
            # to be made and closed for each request.
            self._watcher = self._client._read_event  # noqa: SLF001
            self._watcher.start(self._readable)

    def stop(self) -> None:
        """Idempotent and final; no exception is thrown after it."""
        self._client = None
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()

    def _readable(self) -> None:
        """Runs in the hub, so throwing switches at once: the greenlet cannot have moved on."""
        try:
            data = self._client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # noqa: SLF001
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.stop()
        if not data:
            self._greenlet.throw(ClientGone())


class LiveRequests:
    """The requests under way in this worker: how many, and a way to end them all."""

    def __init__(self) -> None:
        # Greenlets between `enter` and `leave`; each serves one request at a time.
        self._greenlets: set[Any] = set()

    def __len__(self) -> int:
        return len(self._greenlets)

    def enter(self) -> Any:
        """Register the current greenlet; returns what :meth:`leave` takes."""
        greenlet = gevent.getcurrent()
        self._greenlets.add(greenlet)
        return greenlet

    def leave(self, greenlet: Any) -> None:
        self._greenlets.discard(greenlet)

    def interrupt_all(self, interruption: Callable[[], Interruption]) -> None:
        """Throw a fresh ``interruption()`` into each, from the hub."""
        loop = get_hub().loop
        for greenlet in list(self._greenlets):
            loop.run_callback(self._throw, greenlet, interruption)

    def _throw(self, greenlet: Any, interruption: Callable[[], Interruption]) -> None:
        if greenlet in self._greenlets:  # it may have ended since
            greenlet.throw(interruption())
