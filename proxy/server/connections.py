"""A worker's client connections: which of them wait for their client, and how such waits end.

At a stop, gunicorn waits until the worker's last connection has ended. When that takes too long,
the worker is killed with everything it still had to write. So a slow client must not hold a
connection.

Note: on a connection that seems idle, a request may just have arrived.
"""

import contextlib
import math
import socket
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from gunicorn.http.unreader import SocketUnreader

from proxy.runtime.shares import PRESSURE, Shares, is_local
from proxy.runtime.yielding import turn_if_due, wait_for_bytes

#: Maximum of one read: most requests fit into the smaller, bodies take several of the larger.
_READ_BYTES: Final = 16 * 1024
_BODY_READ_BYTES: Final = 64 * 1024
#: How long, and for how many bytes, a client may continue to send after its last response. Most
#: clients read nothing before they have sent everything, so a refusal of a large JSON body must
#: wait for the end of the body.
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 64 * 1024 * 1024


#: How many silent connections are checked for one that can be closed.
_MAX_CHECKED: Final = 8
#: Wait for a body before its rate counts.
BODY_GRACE_SECONDS: Final = 10.0


class ClientBytes(SocketUnreader):  # type: ignore[misc]
    """Reads what a client sends.

    Every loop over heads, bodies or skipped bytes yields to other connections here, and a body must
    keep its minimum rate.
    """

    def __init__(self, client: Any, min_body_rate: float = 0.0) -> None:
        """`min_body_rate` in bytes a second; 0 allows any rate."""
        super().__init__(client, _READ_BYTES)
        self._reads = 0
        self._min_body_rate = min_body_rate
        #: Seconds for which the reader may still wait for the current body; None: there is none.
        #: Each byte adds to them, up to the client timeout.
        self.credit: float | None = None

    def chunk(self, size_hint: int | None = None) -> bytes:
        """One read. `size_hint`: bytes that the caller still expects."""
        self._reads += 1
        if not self._reads & 7:
            turn_if_due()
        size = _READ_BYTES
        if size_hint and size_hint > size:
            size = size_hint if size_hint < _BODY_READ_BYTES else _BODY_READ_BYTES
        sock, credit = self.sock, self.credit
        if credit is None or not self._min_body_rate:
            data: bytes = sock.recv(size)
            return data
        # Only waiting counts: the time that an upstream takes is not the client's fault. The
        # socket's own timeout is not used, because a response may be written to it meanwhile.
        usual = sock.timeout
        max_credit = BODY_GRACE_SECONDS if usual is None or usual < BODY_GRACE_SECONDS else usual
        allowed = credit if usual is None or credit < usual else usual
        began = time.monotonic()
        while True:
            try:
                data = sock._sock.recv(size)  # noqa: SLF001  (gevent's waits by that timeout)
                break
            except BlockingIOError:
                wait_for_bytes(sock, allowed)
        credit += len(data) / self._min_body_rate + began - time.monotonic()
        if credit <= 0:
            raise TimeoutError("the body comes too slowly")
        self.credit = credit if credit < max_credit else max_credit
        return data


def linger(client: Any) -> None:
    """Close the connection once `client` has read its last response, and not before.

    Bytes that are unread at the close would make the kernel discard what is still being delivered
    (RFC 9112 §9.6).
    """
    deadline = time.monotonic() + _LINGER_SECONDS
    left = _LINGER_BYTES
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while left > 0 and (rest := deadline - time.monotonic()) > 0:
            client.settimeout(rest)
            data = client.recv(_BODY_READ_BYTES)
            if not data:
                break
            left -= len(data)
            turn_if_due()
    with contextlib.suppress(OSError):
        client.close()


class Connections:
    """One per worker; connections are gevent sockets.

    When `max_open` is almost reached, each new connection closes an older one: the oldest that has
    never sent a request, else the one of the same address that has been idle for the longest, if
    that address has used up its `share`.
    """

    def __init__(self, max_open: float = math.inf, share: float = 1.0) -> None:
        self._pressure_limit = int(min(max_open, sys.maxsize) * PRESSURE)
        self._shares = Shares(max_open, share)
        self._addresses: dict[Any, str] = {}
        #: Connections that have not sent a request yet, the oldest first.
        self.silent: dict[Any, None] = {}
        #: All connections.
        self.open: set[Any] = set()
        #: Connections that wait for a request, or for the rest of one that has its response →
        #: whether they wait for a further request, and since when (monotonic seconds).
        self.idle: dict[Any, tuple[bool, float]] = {}

    def add(self, client: Any, peer: Any) -> None:
        """Add a new connection; `peer` is as `accept` returns it."""
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if len(self.open) >= self._pressure_limit:
            self._make_room(address)
        self.open.add(client)
        self.silent[client] = None
        self._addresses[client] = address
        self._shares.held[address] += 1

    def remove(self, client: Any) -> None:
        self.open.discard(client)
        self.silent.pop(client, None)
        held, address = self._shares.held, self._addresses.pop(client)
        held[address] -= 1
        if not held[address]:
            del held[address]

    def relieve(self) -> None:
        """Make room for connections that cannot be accepted otherwise. Called twice a second."""
        excess = len(self.open) - self._pressure_limit
        for client in list(self.silent) if excess > 0 else ():
            excess -= self._shut_silent(client)
            if not excess:
                return

    def _make_room(self, address: str) -> None:
        for client in list(islice(self.silent, _MAX_CHECKED)):
            if self._shut_silent(client):
                return
        if self._shares.full(address) and not is_local(address):
            for client in self.idle:
                if self._addresses.get(client) == address and _shut_if_quiet(client):
                    return

    def _shut_silent(self, client: Any) -> bool:
        del self.silent[client]
        if _shut_if_quiet(client):
            return True  # its greenlet removes it in a moment
        self.silent[client] = None  # it has just sent something: others come first
        return False

    def close_idle(self, matches: Callable[[bool, float], bool]) -> None:
        """Close the idle connections for which `matches(served, since)` is true."""
        for client, (served, since) in list(self.idle.items()):
            if matches(served, since):
                _shut_if_quiet(client)

    def shutdown_reads(self) -> None:
        """End every wait for bytes of a client. Writes continue."""
        for client in self.open:
            with contextlib.suppress(OSError):
                # Not gevent's shutdown, which raises in the waiting greenlet: it must see the end
                # of the client's bytes.
                client._sock.shutdown(socket.SHUT_RD)  # noqa: SLF001


def _shut_if_quiet(client: Any) -> bool:
    """End an idle connection, unless a request has just arrived. Returns whether it did."""
    try:
        client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # noqa: SLF001
    except BlockingIOError:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        return True
    except OSError:
        pass
    return False
