"""The requests in flight, and how one that waits is ended: its client has left, or it is cut.

A greenlet that waits for an upstream notices nothing of its client until it writes. So while it
waits, an I/O watcher peeks at the client's socket, and throws into the greenlet.

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

#: Cutting many requests goes on for so many seconds, then everybody else has a turn for as long.
_TURN: Final = 0.002


class Cancelled(GreenletExit):
    """Thrown into the greenlet of a request.

    No ``Exception``: nothing on the way out may take it for an error of its own and go on.
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
    """The access token may not be used any longer. ``refusal``: the error of its next
    request."""

    def __init__(self, refusal: ClientError) -> None:
        super().__init__()
        self.code = refusal.code
        self._refusal = refusal

    def refusal(self) -> ProxyError:
        return self._refusal


class QuotaExhausted(Cancelled):
    """The access token has used up what it may use."""

    code = QuotaExceeded.code

    def refusal(self) -> ProxyError:
        return QuotaExceeded()


class DisconnectWatcher:
    """Peeks at the client's socket and throws :class:`ClientDisconnected` into the greenlet that
    made it.

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
    """Whose a request is: a principal, as seen from here."""

    @property
    def project_id(self) -> str | None: ...

    def concerned_by(self, ids: frozenset[str] | set[str]) -> bool: ...


#: A request, by the greenlet that serves it, and whose it is.
Claim = tuple[Any, Any]


class InFlightRequests:
    """The requests in flight in this worker: how many, whose, and a way to end them. ``share``: of
    ``most``, what one project or one client address may hold under pressure."""

    def __init__(self, most: float = math.inf, share: float = 1.0) -> None:
        self._most = most
        self._by_address = Shares(most, share)
        self._by_project = Shares(most, share)
        # Greenlet → the counts that its place stands in, and under which name.
        self._counted: dict[Any, tuple[tuple[Held, str | None], ...]] = {}
        self._pressed = False
        # Whether they have been ended for good.
        self._draining = False
        # Greenlets between `enter` and `leave`; each serves one request at a time. None: not known
        # yet whose it is, or ending.
        self._owners: dict[Any, Owner | None] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def enter(self, address: str = "") -> Any:
        """Register the current greenlet; returns what the other methods take.

        ProxyError ``overloaded``: there are ``most`` already, or the client's ``address`` has its
        share of them; ``draining``: see :meth:`drain`.
        """
        if self._draining:
            raise ProxyError(code="draining", retry_after=1)
        taken = len(self._owners)
        if taken >= self._most:
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

    def claim(self, greenlet: Any, owner: Owner) -> None:
        """From now on it is known whose request this is, and it is cut with the others of his.

        ProxyError ``overloaded``: the project has its share of the places.
        """
        project, shares = owner.project_id, self._by_project
        if self._pressed and project is not None and shares.full(project):
            raise Overloaded(share_taken("project"))
        self._counted[greenlet] += ((shares.held, project),)
        shares.held[project] += 1
        self._owners[greenlet] = owner

    def leave(self, greenlet: Any) -> None:
        """Idempotent."""
        self._owners.pop(greenlet, None)
        for held, holder in self._counted.pop(greenlet, ()):
            held[holder] -= 1
            if not held[holder]:
                del held[holder]

    def claims(self) -> list[Claim]:
        """Those of which it is known whose they are."""
        return [(greenlet, owner) for greenlet, owner in self._owners.items() if owner is not None]

    def holds(self, claim: Claim) -> bool:
        """Whether that request is still in flight, and still that owner's."""
        return self._owners.get(claim[0]) is claim[1]

    def replace(self, claims: Iterable[Claim], owner: Owner) -> None:
        """More is known now of the owner of these."""
        for claim in claims:
            if self.holds(claim):
                self._owners[claim[0]] = owner

    def revoke(self, claims: Iterable[Claim], refusal: ClientError) -> None:
        """Their access token may not be used any longer. Does not wait."""
        gevent.spawn(self._cut, claims, lambda: TokenRevoked(refusal))

    def cancel_account(self, account_id: str, interruption: Callable[[], Cancelled]) -> None:
        """End all that are charged to this project or token. Does not wait."""
        ids = frozenset((account_id,))
        chosen = [claim for claim in self.claims() if claim[1].concerned_by(ids)]
        gevent.spawn(self._cut, chosen, interruption)

    def drain(self) -> None:
        """The time for them is over: end all, and let none enter any more."""
        self._draining = True
        self.cancel_all(ShuttingDown)

    def cancel_all(self, interruption: Callable[[], Cancelled]) -> None:
        """Throw a fresh ``interruption()`` into each, from the hub."""
        loop = get_hub().loop
        for greenlet in list(self._owners):
            loop.run_callback(self._throw, greenlet, interruption)

    def _cut(self, claims: Iterable[Claim], interruption: Callable[[], Cancelled]) -> None:
        """One after the other: each of them says its last words when it is its turn."""
        loop = get_hub().loop
        began = time.monotonic()
        for claim in claims:
            loop.run_callback(self._end, claim, interruption)
            gevent.sleep(0)
            if time.monotonic() - began > _TURN:
                gevent.sleep(_TURN)
                began = time.monotonic()

    def _end(self, claim: Claim, interruption: Callable[[], Cancelled]) -> None:
        if self.holds(claim):
            # Once only: its last words may take a while to be written.
            self._owners[claim[0]] = None
            self._throw(claim[0], interruption)

    def _throw(self, greenlet: Any, interruption: Callable[[], Cancelled]) -> None:
        if greenlet in self._owners:  # it may have ended since
            greenlet.throw(interruption())
