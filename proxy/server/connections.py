"""A worker's client connections: which of them wait for their client, and how such waits end.

At a stop the worker is waited for until its last connection has ended, and killed with whatever it
had to write when that takes too long. So no client may hold a connection by being slow.

The thing to get wrong: on a connection that seems idle a request may just have arrived.
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

#: What one read takes: most requests come whole in the smaller, bodies in several of the larger.
_READ_SIZE: Final = 16 * 1024
_BODY_READ_SIZE: Final = 64 * 1024
#: How long, and for how many bytes, a client may go on sending after its last response. Most read
#: nothing before they have sent all, so a refusal of a large JSON body must outlast the body.
_LINGER_SECONDS: Final = 2.0
_LINGER_BYTES: Final = 64 * 1024 * 1024


#: How many connections are looked at for one that can be closed.
_TRIES: Final = 8
#: Seconds that a body may be waited for before its rate counts.
BODY_GRACE: Final = 10.0


class ClientBytes(SocketUnreader):  # type: ignore[misc]
    """What a client sends. Every loop over it, of heads, bodies or what is skipped of them, gives
    the other connections their turn here, and a body must keep its rate."""

    def __init__(self, client: Any, min_body_rate: float = 0.0) -> None:
        """``min_body_rate``: bytes a second, 0: any."""
        super().__init__(client, _READ_SIZE)
        self._reads = 0
        self._min_body_rate = min_body_rate
        #: Seconds that the body which is being read may still be waited for; None: no body is.
        #: Each byte adds to them, up to a client's usual patience.
        self.credit: float | None = None

    def chunk(self, size_hint: int | None = None) -> bytes:
        """One read; ``size_hint``: bytes that are still wanted."""
        self._reads += 1
        if not self._reads & 7:
            turn_if_due()
        size = _READ_SIZE
        if size_hint and size_hint > size:
            size = size_hint if size_hint < _BODY_READ_SIZE else _BODY_READ_SIZE
        sock, credit = self.sock, self.credit
        if credit is None or not self._min_body_rate:
            data: bytes = sock.recv(size)
            return data
        # Only waiting counts: what an upstream takes its time for is not the client's fault. Not by
        # the socket's timeout: a response may be written to it meanwhile.
        usual = sock.timeout
        longest = BODY_GRACE if usual is None or usual < BODY_GRACE else usual
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
        self.credit = credit if credit < longest else longest
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
    """One per worker; connections are gevent sockets.

    When ``most`` are almost reached, a new one has an older one closed: the oldest that has never
    sent a request, else the one that is idle for the longest of an address that has its ``share``.
    """

    def __init__(self, most: float = math.inf, share: float = 1.0) -> None:
        self._enough = int(min(most, sys.maxsize) * PRESSURE)
        self._shares = Shares(most, share)
        self._addresses: dict[Any, str] = {}
        #: Those from which no request has come yet, the oldest first.
        self.silent: dict[Any, None] = {}
        #: All of them.
        self.open: set[Any] = set()
        #: Those that wait for a request, or for what is left of one that has been answered →
        #: whether they wait for their next request, and since when they wait (monotonic seconds).
        self.idle: dict[Any, tuple[bool, float]] = {}

    def enter(self, client: Any, peer: Any) -> None:
        """A new connection; ``peer`` as ``accept`` gives it."""
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        if len(self.open) >= self._enough:
            self._make_room(address)
        self.open.add(client)
        self.silent[client] = None
        self._addresses[client] = address
        self._shares.held[address] += 1

    def leave(self, client: Any) -> None:
        self.open.discard(client)
        self.silent.pop(client, None)
        held, address = self._shares.held, self._addresses.pop(client)
        held[address] -= 1
        if not held[address]:
            del held[address]

    def relieve(self) -> None:
        """Make room for those that cannot even be accepted. Called twice a second."""
        excess = len(self.open) - self._enough
        for client in list(self.silent) if excess > 0 else ():
            excess -= self._shut_silent(client)
            if not excess:
                return

    def _make_room(self, address: str) -> None:
        for client in list(islice(self.silent, _TRIES)):
            if self._shut_silent(client):
                return
        if self._shares.full(address) and not is_local(address):
            for client in self.idle:
                if self._addresses.get(client) == address and _shut_if_quiet(client):
                    return

    def _shut_silent(self, client: Any) -> bool:
        del self.silent[client]
        if _shut_if_quiet(client):
            return True  # it leaves in a moment
        self.silent[client] = None  # it has just sent something: the others first
        return False

    def close_idle(self, chosen: Callable[[bool, float], bool]) -> None:
        """Close those of :attr:`idle` that are ``chosen``."""
        for client, (served, since) in list(self.idle.items()):
            if chosen(served, since):
                _shut_if_quiet(client)

    def shutdown_reads(self) -> None:
        """From now on nobody waits for a byte of any client. What is being written goes on."""
        for client in self.open:
            with contextlib.suppress(OSError):
                # Not gevent's, which raises in whoever waits: he shall see the client's end.
                client._sock.shutdown(socket.SHUT_RD)  # noqa: SLF001


def _shut_if_quiet(client: Any) -> bool:
    """End an idle connection, unless a request has just arrived on it. Whether it was ended."""
    try:
        client._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)  # noqa: SLF001
    except BlockingIOError:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        return True
    except OSError:
        pass
    return False
