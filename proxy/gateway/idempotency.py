"""Requests with an `Idempotency-Key`: the first is sent, all others get its response.

The response is that of a flight, which goes on when its client leaves. A request that comes while
it is running joins it, over the workers of a node, too; one that comes later gets the result. The
cache's own rules say nothing about either: the client has named what is the same.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

import gevent

from proxy.cache import status
from proxy.cache.entry import CachedResponse
from proxy.cache.fetched import Fetched, NoResponse
from proxy.cache.flight import Abandoned, Flight, FlightReader
from proxy.cache.flights import Flights
from proxy.cache.idempotency import Idempotency, KeyedRequest, is_final, key_of
from proxy.core.errors import ClientError
from proxy.core.usage_event import CacheFacts
from proxy.gateway.cached_body import BodyRecorder
from proxy.gateway.cached_request import CachedRequest
from proxy.gateway.context import RequestContext
from proxy.gateway.entries import entry_of_head, whole_entry
from proxy.gateway.request import ClientRequest
from proxy.gateway.response_stream import Relayed

#: Seconds of the waits for a request that is running and cannot be joined: it may just begin, or
#: just end. After the last one the client is told to come back.
_WAITS: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_RETRY_AFTER_SECONDS: Final = 5
_NAME: Final = "IDEMPOTENCY-KEY"

#: Reads the response of a flight: :meth:`proxy.gateway.caching.CachedRequests.read`.
Read = Callable[[RequestContext, FlightReader, bool], Relayed | None]
OnEnd = Callable[[Flight], object]


def idempotency_key(inbound: ClientRequest, body: object) -> str | None:
    """Return the key of a POST, or None where it has none that means something.

    A `body` that is not held cannot be compared, and one in parts has another boundary each time:
    such requests are only relayed.

    Raises ClientError ``invalid_idempotency_key``.
    """
    value = inbound.header(_NAME) if inbound.method == "POST" else None
    if value is None or not (body is None or isinstance(body, bytes)):
        return None
    if (inbound.header("CONTENT-TYPE") or "").lower().startswith("multipart/"):
        return None
    if sum(name.upper() == _NAME for name, _ in inbound.headers) > 1:
        raise ClientError(
            "The request has more than one `Idempotency-Key`.", code="invalid_idempotency_key"
        )
    return key_of(value)


class KeyedRequests:
    """The part of the gateway that keys pass.

    Args:
        scope: Which workers see the same keys: those of a `node`, or of a `cluster`.
        max_entry_bytes: Of the largest response that is kept as a result.
        clock: Unix seconds.
    """

    def __init__(
        self, flights: Flights, *, scope: str, max_entry_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._flights = flights
        self._max_entry_bytes = max_entry_bytes
        self._clock = clock
        #: What the client is told.
        self.headers = [("X-Idempotency-Scope", scope)]

    def find(
        self, context: RequestContext, idempotency: Idempotency, key: str, fingerprint: bytes
    ) -> CachedResponse | None:
        """Return the first result of the key, if it is there.

        Raises ClientError ``idempotency_key_reused``, and BackendError.
        """
        cached, principal = cast(CachedRequest, context.cached), context.principal
        cached.key_headers = self.headers
        cached.keyed = keyed = idempotency.request(
            principal.project_id or "", principal.token_id or "", key, fingerprint
        )
        return keyed.find()

    def read_flight(
        self,
        context: RequestContext,
        fetch: Callable[[], Fetched],
        on_end: Sequence[OnEnd],
        read: Read,
    ) -> Relayed | CachedResponse:
        """Return the response of the key's flight, which `fetch` begins where there is none, or
        the result, where another worker has it by now.

        Waits for the head.

        Raises ProxyError as `fetch` does; ``idempotency_in_progress``; ``idempotency_key_reused``.
        """
        cached = cast(CachedRequest, context.cached)
        keyed = cast(KeyedRequest, cached.keyed)

        def claim_and_fetch() -> Fetched:
            if not keyed.begin():
                raise NoResponse
            return fetch()

        for wait in _WAITS:
            reader: FlightReader | None
            if keyed.is_running:
                reader = self._flights.join(keyed.flight_key, marked=False)
            else:
                reader = self._flights.join_or_begin(
                    keyed.flight_key,
                    claim_and_fetch,
                    marked=False,
                    on_end=(*on_end, partial(_end, keyed)),
                    on_abandoned=partial(_abandoned, context),
                )
            relayed = None if reader is None else read(context, reader, reader.owns)
            if reader is not None and relayed is not None:
                if cached.facts is not None:
                    self._joined(cached, reader.flight)
                return relayed
            if cached.refusal is not None:
                raise cached.refusal
            result = keyed.find()
            if result is not None:
                return result
            gevent.sleep(wait)
        keyed.count("in_progress")
        raise ClientError(code="idempotency_in_progress", retry_after=_RETRY_AFTER_SECONDS)

    def mark_replayed(self, cached: CachedRequest, state: str = "replayed") -> None:
        """Tell the client that it gets the response to an earlier request, and count that."""
        cached.key_headers = [("Idempotent-Replayed", "true"), *self.headers]
        cast(KeyedRequest, cached.keyed).count(state)

    def _joined(self, cached: CachedRequest, flight: Flight) -> None:
        """Note that a request gets the response of a flight that another one has begun."""
        if not flight.complete:
            self.mark_replayed(cached, "joined")
            return
        # The first request has ended; only its result is not in the store yet.
        self.mark_replayed(cached)
        cached.facts = CacheFacts("replayed")
        if cached.access.mode != "off":
            now = self._clock()
            cached.headers = status.replayed(now, now)

    def recorders(self, context: RequestContext, relayed: Relayed) -> tuple[BodyRecorder, ...]:
        """Return the observer that keeps the response as the key's result, if it is one."""
        keyed = cast(CachedRequest, context.cached).keyed
        if keyed is None or not is_final(context.status):
            return ()
        reason, source, _, _ = relayed
        head = entry_of_head(context, reason, keyed.flight_key.scope, keyed.lifetime)

        def keep(chunks: list[bytes]) -> None:
            keyed.result = whole_entry(context, head, chunks, self._clock())

        def give_up(reason: str) -> None:
            keyed.is_too_large = reason == "too_large"

        return (BodyRecorder(self._max_entry_bytes, lambda: source.complete, keep, give_up),)


def _abandoned(context: RequestContext, _: Flight) -> Abandoned:
    """Decide what becomes of a flight whose last reader has left: its retry will ask for it."""
    return Abandoned.CANCEL if context.was_cut else Abandoned.DRAIN


def _end(keyed: KeyedRequest, flight: Flight) -> None:
    """Called at the end of a flight."""
    kept = flight.complete and keyed.will_be_kept()
    if not kept:
        # A retry that comes now runs again.
        flight.stop_sharing()
    keyed.end(kept)
