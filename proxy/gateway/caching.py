"""Requests of projects that keep responses: served from the cache, or recorded for it.

Projects that ask for none of this pass nothing of it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, NamedTuple, cast

import gevent

from proxy.auth.principal import Principal
from proxy.cache import conditional, status
from proxy.cache.access import CacheAccess
from proxy.cache.backends.base import records_unavailable
from proxy.cache.completeness import body_verdict
from proxy.cache.directives import client_directives
from proxy.cache.entry import CachedResponse, replayable
from proxy.cache.fetched import UNKNOWN_COST, Cost, Fetched, FlightHead, NoResponse
from proxy.cache.flight import Abandoned, Flight, FlightReader
from proxy.cache.flights import Flights
from proxy.cache.idempotency import Idempotency, is_final
from proxy.cache.key import CacheKey
from proxy.cache.policy import HeadVerdict, RequestVerdict, head_verdict
from proxy.cache.request_reader import RequestReader
from proxy.cache.response_cache import ResponseCache
from proxy.core.errors import ProxyError
from proxy.core.media_type import is_event_stream
from proxy.core.usage_event import CacheFacts
from proxy.gateway.cached_body import BodyRecorder, EventBoundary, StoredBody
from proxy.gateway.cached_request import CachedRequest
from proxy.gateway.context import RequestContext
from proxy.gateway.entries import entry_of_head, whole_entry
from proxy.gateway.idempotency import KeyedRequests, idempotency_key
from proxy.gateway.response_stream import Relayed
from proxy.providers.base import OutboundRequest, Target
from proxy.upstream.body import BodyObserver, Source
from proxy.upstream.headers import content_of, is_plain
from proxy.usage.meter import UsageMeter

#: Responses that were not paid for: a retry must not get the one of the try before it.
_WORTH_A_RETRY: Final = frozenset({408, 409, 429})
#: How often a request joins flights, or begins one, before it goes its own way.
_MAX_JOINS: Final = 3
#: A larger body, or a compressed one, takes milliseconds to be judged: that happens beside the
#: request.
_MAX_PLAIN_JUDGE_BYTES: Final = 64 * 1024
_UNAVAILABLE: Final = RequestVerdict(detail="unavailable")
_NO_STREAM: Final = EventBoundary(is_plain=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingOptions:
    """The options of the cache, as requests need them."""

    #: Seconds for which a response is kept; 0: none is.
    ttl: float
    #: Seconds after its expiry in which a response may serve when the upstream fails.
    stale_if_error: float = 0.0
    #: Bytes of the largest response that is kept.
    max_entry_bytes: int = 4 * 1024 * 1024
    #: Whether an `Idempotency-Key` means anything; otherwise it is only relayed.
    idempotency: bool = False
    #: Which workers see the same keys: those of a `node`, or of a `cluster`.
    idempotency_scope: str = "node"


class OpenCache(NamedTuple):
    """The cache, the reader of its requests, and what it keeps for idempotency keys: all need the
    secret of the installation."""

    cache: ResponseCache
    reader: RequestReader
    idempotency: Idempotency


class CachedRequests:
    """Looks requests up, records their responses, and lets identical ones share one."""

    def __init__(
        self,
        opened: Callable[[], OpenCache | None],
        flights: Flights,
        own_target: Target,
        options: CachingOptions,
        *,
        count_hit: Callable[[Principal], object] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create the part of the cache that requests pass.

        Args:
            opened: Returns the cache; None while it cannot be used.
            own_target: The upstream of projects with a key of their own.
            count_hit: Called for each request that is served without a call of its own. Does not
                wait.
            clock: Unix seconds.
        """
        self._opened = opened
        self._flights = flights
        self._own_upstream = _named(own_target)
        self._options = options
        self._count_hit = count_hit
        self._clock = clock
        #: Requests that were not served by the cache, for the metrics: `miss`, `bypass`.
        self.results: Counter[str] = Counter()
        self._keyed = KeyedRequests(
            flights,
            scope=options.idempotency_scope,
            max_entry_bytes=options.max_entry_bytes,
            clock=clock,
        )

    def idempotency_key(self, context: RequestContext) -> str | None:
        """Return the key of a request, where that means something.

        Raises ClientError ``invalid_idempotency_key``.
        """
        access = cast(CacheAccess, context.principal.caching)
        if not access.idempotency or not self._options.idempotency:
            return None
        return idempotency_key(context.inbound, cast(OutboundRequest, context.outbound).body)

    def find(self, context: RequestContext, idempotency_key: str | None) -> CachedResponse | None:
        """Return the stored response that may serve the request, or None.

        Raises ProxyError ``not_cached`` where the client allows no other, and what
        :meth:`KeyedRequests.find` raises.
        """
        access = cast(CacheAccess, context.principal.caching)
        opened = self._opened()
        outbound, upstream = cast(OutboundRequest, context.outbound), self._upstream(context)
        if opened is None:
            context.cached = cached = CachedRequest(access, _UNAVAILABLE)
            if access.mode != "off":
                context.on_finish(partial(self._count, cached))
                cached.headers = status.forwarded(_UNAVAILABLE)
            if idempotency_key is not None:
                raise records_unavailable()
            if access.mode != "off" and client_directives(outbound.headers).only_if_cached:
                raise ProxyError(code="not_cached")
            return None
        asked = opened.reader.read(access, outbound, upstream)
        verdict = asked.verdict
        context.cached = cached = CachedRequest(
            access, verdict, opened.cache, asked.key, asked.is_held
        )
        entry = None
        if idempotency_key is not None:
            fingerprint = opened.reader.keys.fingerprint(access, outbound, upstream)
            entry = self._keyed.find(context, opened.idempotency, idempotency_key, fingerprint)
            if entry is not None:
                return entry
        if asked.key is not None and verdict.lookup:
            stale = verdict.max_stale > 0 or self._options.stale_if_error > 0
            entry = opened.cache.get(asked.key, allow_stale=stale)
            if entry is not None and verdict.accepts(entry, self._clock()):
                return entry
        if access.mode != "off":
            context.on_finish(partial(self._count, cached))
            cached.headers = status.forwarded(verdict, expired=entry is not None)
        if verdict.only_if_cached:
            raise ProxyError(code="not_cached")
        return None

    def stale(self, context: RequestContext) -> CachedResponse | None:
        """Return an expired response that may serve, since the upstream has failed."""
        cached = cast(CachedRequest, context.cached)
        cache, key, verdict = cached.cache, cached.key, cached.verdict
        if cache is None or key is None or not verdict.lookup or not verdict.stale_if_error:
            return None
        entry = cache.get(key, allow_stale=True)
        if entry is None or not verdict.accepts_on_error(entry, self._clock()):
            return None
        return entry

    def serve(
        self, context: RequestContext, entry: CachedResponse, how: Literal["hit", "stale"]
    ) -> Relayed:
        """Return the stored response as the client gets it."""
        reason, body = self._replayed(context, entry, how)
        sizes = entry.chunk_sizes if body else ()
        return self._unmetered(context, reason, StoredBody(body, sizes))

    def whole(self, context: RequestContext, entry: CachedResponse) -> tuple[str, bytes]:
        """As :meth:`serve`, for a hit that is sent in one piece. Returns its reason and body."""
        content_type, _ = content_of(entry.headers)
        cast(CachedRequest, context.cached).is_event_stream = is_event_stream(content_type)
        return self._replayed(context, entry, "hit")

    def _replayed(
        self, context: RequestContext, entry: CachedResponse, how: Literal["hit", "stale"]
    ) -> tuple[str, bytes]:
        """Set the status and the headers of a stored response. Returns its reason and body."""
        cached, inbound = cast(CachedRequest, context.cached), context.inbound
        if cached.keyed is not None:
            if cached.keyed.is_done:
                return self._first_result(context, entry)
            if how == "hit":
                # Its retries get the same, also when that has left the cache.
                gevent.spawn(cached.keyed.take_for_result, entry)
        cached.facts = CacheFacts(how, entry.prompt_tokens, entry.completion_tokens)
        cached.flight = None  # one that failed saved nothing
        self._count_hit(context.principal)
        cached.model = entry.model
        name = cast(CacheKey, cached.key).name
        cached.headers = status.hit(name, entry, self._clock(), stale=how == "stale")
        headers = entry.headers
        if conditional.is_not_modified(inbound.method, inbound.headers, entry.status, headers):
            context.status, context.response_headers = 304, conditional.not_modified(headers)
            return "Not Modified", b""
        context.status, context.response_headers = entry.status, headers
        return entry.reason, entry.body

    def _first_result(self, context: RequestContext, result: CachedResponse) -> tuple[str, bytes]:
        """As :meth:`_replayed`, for the first result of an idempotency key."""
        cached = cast(CachedRequest, context.cached)
        self._keyed.mark_replayed(cached)
        cached.facts = CacheFacts("replayed", result.prompt_tokens, result.completion_tokens)
        self._count_hit(context.principal)
        cached.model = result.model
        if cached.access.mode != "off":
            cached.headers = status.replayed(result.stored_at, self._clock())
        context.status, context.response_headers = result.status, result.headers
        return result.reason, result.body

    def recorded(self, context: RequestContext, relayed: Relayed) -> Relayed:
        """Return the response with an observer that keeps it, where it may be kept."""
        self._forget(context)
        if not cast(CachedRequest, context.cached).verdict.store:
            return relayed
        recorders = self._recorders(context, relayed, self._head_verdict(context))
        reason, source, observers, encoding = relayed
        return reason, source, (*observers, *recorders), encoding

    def _forget(self, context: RequestContext) -> None:
        """Delete what the request has made void, now that it has succeeded."""
        cached = cast(CachedRequest, context.cached)
        if cached.cache is not None and cached.verdict.forget and context.status < 400:
            cached.cache.forget(cached.access.scope, context.inbound.target)

    # Responses with several readers.

    def uses_flight(self, context: RequestContext) -> bool:
        """Return whether the response may have several readers."""
        cached = cast(CachedRequest, context.cached)
        return cached.keyed is not None or (cached.key is not None and cached.uses_flight)

    def read_flight(self, context: RequestContext, fetch: Callable[[], Fetched]) -> Relayed | None:
        """Return the response of a flight: one that is there, or a new one that `fetch` begins.

        Waits for the head. Returns None when this request gets no response here, and goes its own
        way.

        Raises ProxyError as `fetch` does.
        """
        cached, inbound = cast(CachedRequest, context.cached), context.inbound
        on_end = (partial(_wait_until_stored, cached),)
        if cached.keyed is not None:
            found = self._keyed.read_flight(context, fetch, on_end, self._read)
            return self.serve(context, found, "hit") if isinstance(found, CachedResponse) else found
        key, holder = cast(CacheKey, cached.key), ""
        reader: FlightReader | None = None
        if cached.is_held:
            holder = context.principal.token_hash
            if inbound.header("X-STAINLESS-RETRY-COUNT") not in (None, "0"):
                reader = self._flights.adopt(key, holder)
        if reader is not None:
            relayed = self._read(context, reader, False)
            if relayed is not None:
                return relayed
        for _ in range(_MAX_JOINS):
            reader = self._flights.join_or_begin(
                key,
                fetch,
                shared=cached.verdict.share,
                holder=holder,
                on_end=on_end,
                on_abandoned=partial(self._abandoned, context),
            )
            relayed = self._read(context, reader, reader.owns)
            if relayed is not None:
                return relayed
            # The request that sent it is gone, or kept its response for itself.
            if cached.refusal is not None:
                raise cached.refusal
            entry = self._stored(cached)
            if entry is not None:
                # Another request has stored it meanwhile.
                return self.serve(context, entry, "hit")
        return None

    def look_again(self, context: RequestContext) -> None:
        """Called by a request that begins a flight. Raises NoResponse if a flight before it has
        ended, and its response been stored, since the request looked."""
        cached = cast(CachedRequest, context.cached)
        if cached.keyed is None and self._stored(cached) is not None:
            raise NoResponse

    def _stored(self, cached: CachedRequest) -> CachedResponse | None:
        cache, key, verdict = cached.cache, cached.key, cached.verdict
        if cache is None or key is None or not verdict.lookup:
            return None
        entry = cache.get(key)
        return entry if entry is not None and verdict.accepts(entry, self._clock()) else None

    def _read(self, context: RequestContext, reader: FlightReader, pays: bool) -> Relayed | None:
        """Return the response of a flight, or None where it has none for this request."""
        cached = cast(CachedRequest, context.cached)
        context.reader = reader
        # A failing write shows that the client has left; the flight may go on.
        context.drain_on_disconnect = False
        if pays:
            reader.flight.when_settled(partial(_note_break, context, reader.flight))
        else:
            cached.flight, cached.facts = reader.flight, CacheFacts("collapsed")
        head = reader.head()
        if head is None:
            context.reader = cached.flight = cached.facts = None
            context.drain_on_disconnect = context.principal.policy.drain_on_disconnect
            return None
        return self._shared(context, reader, head, pays)

    @contextmanager
    def refusing(self, context: RequestContext) -> Iterator[None]:
        """A refusal is that of this request alone: the others of its flight go their own way."""
        try:
            yield
        except ProxyError as refusal:
            cast(CachedRequest, context.cached).refusal = refusal
            raise NoResponse from refusal

    def fetched(self, context: RequestContext, relayed: Relayed) -> Fetched:
        """Return what a flight reads, for the request that began it."""
        reason, source, observers, encoding = relayed
        verdict, keyed = self._head_verdict(context), cast(CachedRequest, context.cached).keyed
        self._forget(context)
        observers += self._recorders(context, relayed, verdict)
        observers += self._keyed.recorders(context, relayed)
        head = FlightHead(
            status=context.status,
            reason=reason,
            headers=context.response_headers,
            # With a key the client says itself which requests are the same.
            shareable=verdict.storable or keyed is not None,
            adoptable=context.status < 500 and context.status not in _WORTH_A_RETRY,
            joinable_at_end=keyed is None or is_final(context.status),
        )
        close, cost = context.close_upstream, partial(_cost, context.meter)
        return Fetched(head, source, observers, close, bool(encoding), cost)

    def _shared(
        self, context: RequestContext, reader: FlightReader, head: FlightHead, pays: bool
    ) -> Relayed:
        context.status = head.status
        if pays:
            context.response_headers = head.headers
            _, content_encoding = content_of(head.headers)
            return head.reason, reader, _position(context, content_encoding), ""
        self._count_hit(context.principal)
        context.response_headers = replayable(head.headers)
        cached = cast(CachedRequest, context.cached)
        if cached.access.mode != "off":
            cached.headers = status.forwarded(cached.verdict, collapsed=True)
        return self._unmetered(context, head.reason, reader)

    def _abandoned(self, context: RequestContext, _: Flight) -> Abandoned:
        """Decide what becomes of a flight whose last reader has left."""
        if context.was_cut:
            # Whoever pays may not, or no more.
            return Abandoned.CANCEL
        if context.principal.policy.drain_on_disconnect:
            return Abandoned.DRAIN
        return Abandoned.HOLD if cast(CachedRequest, context.cached).is_held else Abandoned.CANCEL

    def _count(self, cached: CachedRequest) -> None:
        """Count the request, unless something served it in the end: then its event says so."""
        if cached.facts is None:
            self.results["miss" if cached.verdict.uses_cache else "bypass"] += 1

    def _head_verdict(self, context: RequestContext) -> HeadVerdict:
        inbound = context.inbound
        return head_verdict(context.status, context.response_headers, inbound.method, inbound.path)

    def _recorders(
        self, context: RequestContext, relayed: Relayed, head: HeadVerdict
    ) -> tuple[BodyRecorder, ...]:
        """Return the observer that keeps the response; none where it must not be kept."""
        cached = cast(CachedRequest, context.cached)
        cache, key = cached.cache, cached.key
        if cache is None or key is None or not cached.verdict.store:
            return ()
        if not head.storable:
            cache.reject(head.reason)
            return ()
        reason, source, _, _ = relayed
        lifetime = min(cached.verdict.ttl, head.ttl_cap)
        entry = entry_of_head(context, reason, key.scope, lifetime)
        store = partial(self._store_complete, context, cache, key, entry)
        most = self._options.max_entry_bytes
        return (BodyRecorder(most, lambda: source.complete, store, cache.reject),)

    def _store_complete(
        self,
        context: RequestContext,
        cache: ResponseCache,
        key: CacheKey,
        head: CachedResponse,
        chunks: list[bytes],
    ) -> None:
        """Store a complete response if it says that it is. Does not wait.

        `head` is the entry without what only the end of the response shows.
        """
        entry = whole_entry(context, head, chunks, self._clock())
        _, content_encoding = content_of(entry.headers)
        if len(entry.body) <= _MAX_PLAIN_JUDGE_BYTES and is_plain(content_encoding):
            _store(cache, key, entry)
        else:
            # It lets other greenlets run.
            storing = gevent.spawn(_store, cache, key, entry)
            cast(CachedRequest, context.cached).storing = storing

    def _unmetered(self, context: RequestContext, reason: str, source: Source) -> Relayed:
        """Return a response that costs nothing, so that it is not metered."""
        content_type, content_encoding = content_of(context.response_headers)
        context.meter = UsageMeter(content_type, content_encoding)
        cast(CachedRequest, context.cached).is_event_stream = context.meter.is_event_stream
        return reason, source, _position(context, content_encoding), ""

    def _upstream(self, context: RequestContext) -> str:
        """Return a text that names where the request goes."""
        if context.routed is None:
            return self._own_upstream
        # Equal targets come in a random order.
        return "\n".join(sorted(_named(each.target) for each in context.routed.route.targets))


def _named(target: Target) -> str:
    model = "" if target.model is None else target.model
    return f"{target.provider} {target.origin}{target.prefix} {model}"


def _position(context: RequestContext, content_encoding: str) -> tuple[BodyObserver, ...]:
    """Return the observer of what this client gets, which is not metered here."""
    if not context.meter.is_event_stream:
        context.sent = _NO_STREAM
        return ()
    context.sent = boundary = EventBoundary(is_plain=is_plain(content_encoding))
    return (boundary,)


def _cost(meter: UsageMeter) -> Cost:
    """Return what a response has cost that the meter has seen to its end."""
    usage = meter.reading.usage
    if usage is None:
        return UNKNOWN_COST
    return usage.prompt_tokens, usage.completion_tokens, usage.model


def _note_break(context: RequestContext, flight: Flight) -> None:
    """Called at the end of a flight, with the context of the request that began it: whoever still
    reads, the target has failed."""
    if context.routed is not None and flight.error is not None and flight.broke_off:
        context.routed.broke_off(flight.error.code)


def _wait_until_stored(cached: CachedRequest, _: Flight) -> None:
    """Called at the end of a flight, which can be joined until its response is in the cache."""
    if cached.storing is not None:
        cached.storing.join()
    if cached.cache is not None and cached.verdict.share:
        cached.cache.flush()


def _store(cache: ResponseCache, key: CacheKey, entry: CachedResponse) -> None:
    content_type, content_encoding = content_of(entry.headers)
    path = entry.target.partition("?")[0]
    refused = body_verdict(entry.status, content_type, content_encoding, path, entry.body)
    if refused is None:
        cache.put(key, entry)
    else:
        cache.reject(refused)
