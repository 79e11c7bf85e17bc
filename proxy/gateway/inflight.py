"""The requests in flight, and the two ways to end one that waits: its client leaves, or it is cut.

A greenlet that waits for an upstream does not notice that its client has left before it writes. So
while it waits, an I/O watcher peeks at the client's socket and throws into the greenlet.

Note: the exception may surface at *any* wait of that greenlet. So a watcher runs only from the
moment the request's body has been read until the response has ended, and what the code in between
holds is registered with the :class:`~proxy.gateway.context.RequestContext`.
"""

import math
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import gevent
from gevent import GreenletExit, get_hub

from proxy.core.errors import ClientError, Overloaded, ProxyError, QuotaExceeded
from proxy.runtime.shares import Held, Shares, is_local, share_taken

#: Cutting many requests runs for so many seconds, then pauses for as long, so that other greenlets
#: run.
_TURN_SECONDS: Final = 0.002


class Cancelled(GreenletExit):
    """Thrown into the greenlet of a request.

    It is no ``Exception``, so that no handler on the way out takes it for an error of its own and
    continues.
    """

    #: The error code of the event; None when the client itself ended the request.
    code: str | None = None
    #: The status of a WebSocket's close frame (RFC 6455 §7.4.1): here "policy violation".
    close_code = 1008

    def refusal(self) -> ProxyError:
        """The error response for a client that has no response yet."""
        return ProxyError(code=self.code)


class ClientDisconnected(Cancelled):
    """The client closed its connection. A half-closed one counts as gone."""


class ShuttingDown(Cancelled):
    """The server is stopping and the time for requests in flight is over."""

    code = "draining"
    close_code = 1001  # "going away"

    def refusal(self) -> ProxyError:
        return ProxyError(code=self.code, retry_after=1)


class TokenRevoked(Cancelled):
    """The access token may not be used any longer. ``refusal`` is the error that its next
    request gets."""

    def __init__(self, refusal: ClientError) -> None:
        super().__init__()
        self.code = refusal.code
        self._refusal = refusal

    def refusal(self) -> ProxyError:
        return self._refusal


class QuotaExhausted(Cancelled):
    """The access token has used up its quota or budget."""

    code = QuotaExceeded.code

    def refusal(self) -> ProxyError:
        return QuotaExceeded()


class DisconnectWatcher:
    """Peeks at the client's socket and throws :class:`ClientDisconnected` into the greenlet that
    made it.

    Plain TCP only. Bytes of a next, pipelined request do not mean that the client has left. They
    end the watch, since behind them a closed connection looks like an open one.
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
            # The socket's own: nothing reads it while it is watched, and another one would have
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
            self._greenlet.throw(ClientDisconnected())


class Owner(Protocol):
    """The owner of a request: a principal, as far as it matters here."""

    @property
    def project_id(self) -> str | None: ...

    def concerned_by(self, ids: frozenset[str] | set[str]) -> bool: ...


#: A request, by the greenlet that serves it, and its owner.
OwnedRequest = tuple[Any, Any]


class InFlightRequests:
    """The requests in flight in this worker: their number, their owners, and a way to end them.

    ``share`` is the fraction of ``max_requests`` that one project or one client address may hold
    under pressure.
    """

    def __init__(self, max_requests: float = math.inf, share: float = 1.0) -> None:
        self._max_requests = max_requests
        self._by_address = Shares(max_requests, share)
        self._by_project = Shares(max_requests, share)
        # Greenlet → the counts that include its place, each with the name that it is counted under.
        self._counted: dict[Any, tuple[tuple[Held, str | None], ...]] = {}
        self._pressed = False
        # Whether all have been ended, and no further request is accepted.
        self._draining = False
        # Greenlets between `register` and `unregister`; each serves one request at a time. The
        # owner is None while it is not known, and once the request is being ended.
        self._owners: dict[Any, Owner | None] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def register(self, address: str = "") -> Any:
        """Register the current greenlet. Returns what the other methods take.

        Raises ProxyError: ``overloaded`` when ``max_requests`` are in flight or the client's
        ``address`` has its share of them, ``draining`` after :meth:`drain`.
        """
        if self._draining:
            raise ProxyError(code="draining", retry_after=1)
        taken = len(self._owners)
        if taken >= self._max_requests:
            raise Overloaded
        shares = self._by_address
        self._pressed = taken >= shares.pressure
        if self._pressed and shares.full(address) and not is_local(address):
            raise Overloaded(share_taken("client address"))
        greenlet = gevent.getcurrent()
        self._owners[greenlet] = None
        self._counted[greenlet] = ((shares.held, address),)
        shares.held[address] += 1
        return greenlet

    def set_owner(self, greenlet: Any, owner: Owner) -> None:
        """Note the owner of a request, which is cut together with the owner's other requests.

        Raises ProxyError ``overloaded`` when the project has its share of the places.
        """
        project, shares = owner.project_id, self._by_project
        if self._pressed and project is not None and shares.full(project):
            raise Overloaded(share_taken("project"))
        self._counted[greenlet] += ((shares.held, project),)
        shares.held[project] += 1
        self._owners[greenlet] = owner

    def unregister(self, greenlet: Any) -> None:
        """Remove a request. Idempotent."""
        self._owners.pop(greenlet, None)
        for held, holder in self._counted.pop(greenlet, ()):
            held[holder] -= 1
            if not held[holder]:
                del held[holder]

    def owned(self) -> list[OwnedRequest]:
        """Return the requests whose owner is known."""
        return [(greenlet, owner) for greenlet, owner in self._owners.items() if owner is not None]

    def is_current(self, request: OwnedRequest) -> bool:
        """Return whether the request is still in flight, with the same owner."""
        return self._owners.get(request[0]) is request[1]

    def replace(self, requests: Iterable[OwnedRequest], owner: Owner) -> None:
        """Set a newer version of the owner of these requests."""
        for request in requests:
            if self.is_current(request):
                self._owners[request[0]] = owner

    def revoke(self, requests: Iterable[OwnedRequest], refusal: ClientError) -> None:
        """Cut these requests: their access token may not be used any longer. Does not wait."""
        gevent.spawn(self._cut, requests, lambda: TokenRevoked(refusal))

    def cancel_account(self, account_id: str, interruption: Callable[[], Cancelled]) -> None:
        """Cut all requests that are charged to this project or token. Does not wait."""
        ids = frozenset((account_id,))
        chosen = [request for request in self.owned() if request[1].concerned_by(ids)]
        gevent.spawn(self._cut, chosen, interruption)

    def drain(self) -> None:
        """Cut all requests and accept no further one."""
        self._draining = True
        self.cancel_all(ShuttingDown)

    def cancel_all(self, interruption: Callable[[], Cancelled]) -> None:
        """Throw a new ``interruption()`` into each request, from the hub."""
        loop = get_hub().loop
        for greenlet in list(self._owners):
            loop.run_callback(self._throw, greenlet, interruption)

    def _cut(self, requests: Iterable[OwnedRequest], interruption: Callable[[], Cancelled]) -> None:
        """Cut one after the other: each writes its closing event before the next is cut."""
        loop = get_hub().loop
        began = time.monotonic()
        for request in requests:
            loop.run_callback(self._end, request, interruption)
            gevent.sleep(0)
            if time.monotonic() - began > _TURN_SECONDS:
                gevent.sleep(_TURN_SECONDS)
                began = time.monotonic()

    def _end(self, request: OwnedRequest, interruption: Callable[[], Cancelled]) -> None:
        if self.is_current(request):
            # Only once: writing its closing event may take a while.
            self._owners[request[0]] = None
            self._throw(request[0], interruption)

    def _throw(self, greenlet: Any, interruption: Callable[[], Cancelled]) -> None:
        if greenlet in self._owners:  # it may have ended since
            greenlet.throw(interruption())
