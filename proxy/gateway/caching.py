"""Requests of projects that keep responses: served from the cache, or recorded for it.

Projects that ask for none of this pass nothing of it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, cast

import gevent
from gevent import get_hub

from proxy.cache import conditional, status
from proxy.cache.access import CacheAccess
from proxy.cache.entry import CachedResponse, replayable
from proxy.cache.fetched import Fetched, FlightHead, NoResponse
from proxy.cache.flight import Abandoned, Flight, FlightReader
from proxy.cache.flights import Flights
from proxy.cache.key import CacheKey, KeyMaker
from proxy.cache.policy import HeadVerdict, body_verdict, head_verdict, read_request
from proxy.cache.response_cache import ResponseCache
from proxy.cache.secret import CacheSecret
from proxy.core.errors import ProxyError
from proxy.core.usage_event import CacheFacts
from proxy.gateway.cached_body import BodyRecorder, EventBoundary, StoredBody
from proxy.gateway.cached_request import CachedRequest
from proxy.gateway.context import RequestContext
from proxy.gateway.response_stream import Relayed, Source
from proxy.gateway.responses import Headers
from proxy.providers.base import OutboundRequest, Target
from proxy.upstream.headers import content_of, is_plain
from proxy.usage.meter import UsageMeter

#: A larger body takes milliseconds to be judged, so a thread does it.
_MAX_PLAIN_JUDGE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingOptions:
    """The options of the cache, as requests need them."""

    #: Seconds for which a response is kept; 0: none is.
    ttl: float
    #: Seconds after its expiry in which a response may serve when the upstream fails.
    stale_if_error: float = 0.0
    #: Bytes of the largest response that is kept.
    max_entry_bytes: int = 4 * 1024 * 1024


class CachedRequests:
    """Looks requests up, records their responses, and lets identical ones share one."""

    def __init__(
        self,
        cache: ResponseCache,
        secret: CacheSecret,
        flights: Flights,
        own_target: Target,
        options: CachingOptions,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create the part of the cache that requests pass.

        Args:
            own_target: The upstream of projects with a key of their own.
            clock: Unix seconds.
        """
        self._cache = cache
        self._secret = secret
        self._flights = flights
        self._own_upstream = _named(own_target)
        self._options = options
        self._clock = clock
        # None until the secret is there.
        self._keys: KeyMaker | None = None

    def find(self, context: RequestContext) -> CachedResponse | None:
        """Return the stored response that may serve the request, or None.

        Raises ProxyError ``not_cached`` where the client allows no other.
        """
        access = cast(CacheAccess, context.principal.caching)
        outbound = cast(OutboundRequest, context.outbound)
        inbound = context.inbound
        verdict = read_request(
            access,
            inbound.method,
            inbound.path,
            outbound,
            self._options.ttl,
            self._options.stale_if_error,
        )
        context.cached = cached = CachedRequest(access, verdict)
        keys = self._key_maker()
        cached.is_held = (
            access.hold and inbound.method == "POST" and isinstance(outbound.body, bytes)
        )
        entry = None
        if keys is not None and (verdict.lookup or verdict.store or cached.flies):
            cached.key = key = keys.key(access, outbound, self._upstream(context))
            if verdict.lookup:
                entry = self._cache.get(key)
        if entry is not None and verdict.accepts(entry, self._clock()):
            return entry
        if verdict.only_if_cached:
            raise ProxyError(code="not_cached")
        if access.mode != "off":
            cached.headers = status.forwarded(verdict, expired=entry is not None)
        return None

    def stale(self, context: RequestContext) -> CachedResponse | None:
        """Return an expired response that may serve, since the upstream has failed."""
        cached = cast(CachedRequest, context.cached)
        if cached.key is None or not cached.verdict.lookup or not cached.verdict.stale_if_error:
            return None
        entry = self._cache.get(cached.key, allow_stale=True)
        if entry is None or not cached.verdict.accepts_on_error(entry, self._clock()):
            return None
        return entry

    def serve(
        self, context: RequestContext, entry: CachedResponse, how: Literal["hit", "stale"]
    ) -> Relayed:
        """Return the stored response as the client gets it."""
        cached, now = cast(CachedRequest, context.cached), self._clock()
        key = cast(CacheKey, cached.key)
        cached.facts = CacheFacts(how, entry.prompt_tokens, entry.completion_tokens)
        cached.model = entry.model
        cached.headers = status.hit(key.name, entry, now, stale=how == "stale")
        context.status, headers, body = entry.status, entry.headers, entry.body
        reason, sizes = entry.reason, entry.chunk_sizes
        if conditional.is_not_modified(
            context.inbound.method, context.inbound.headers, entry.status, headers
        ):
            context.status, reason, body, sizes = 304, "Not Modified", b"", ()
            headers = conditional.not_modified(headers)
        context.response_headers = headers
        return self._unmetered(context, reason, StoredBody(body, sizes))

    def recorded(self, context: RequestContext, relayed: Relayed) -> Relayed:
        """Return the response with an observer that keeps it, where it may be kept."""
        cached = cast(CachedRequest, context.cached)
        if cached.verdict.forget and context.status < 400:
            self._cache.forget(cached.access.scope, context.inbound.target)
        if cached.key is None or not cached.verdict.store:
            return relayed
        head = self._head_verdict(context)
        if not head.storable:
            self._cache.reject(head.reason)
            return relayed
        reason, source, observers, encoding = relayed
        return reason, source, (*observers, self._recorder(context, relayed, head)), encoding

    # Responses with several readers.

    def flies(self, context: RequestContext) -> bool:
        """Return whether the response may have several readers."""
        cached = cast(CachedRequest, context.cached)
        return cached.key is not None and cached.flies

    def flown(self, context: RequestContext, fetch: Callable[[], Fetched]) -> Relayed | None:
        """Return the response of a flight: one that is there, or a new one that `fetch` begins.

        Waits for the head. Returns None when this request gets no response here, and goes its own
        way.

        Raises ProxyError as `fetch` does.
        """
        cached, inbound = cast(CachedRequest, context.cached), context.inbound
        key, holder = cast(CacheKey, cached.key), ""
        reader: FlightReader | None = None
        if cached.is_held:
            holder = context.principal.token_hash
            if inbound.header("X-STAINLESS-RETRY-COUNT") not in (None, "0"):
                reader = self._flights.adopt(key, holder)
        pays = reader is None
        if reader is None:
            reader = self._flights.join_or_begin(
                key,
                fetch,
                shared=cached.verdict.share,
                holder=holder,
                on_end=(partial(_note_cost, context),),
                on_abandoned=partial(self._abandoned, context),
            )
            pays = reader.owns
        context.on_finish(reader.close)
        context.flight = flight = reader.flight
        # A failing write shows that the client has left; the flight may go on.
        context.drain_on_disconnect = False
        if not pays:
            cached.flight, cached.facts = flight, CacheFacts("collapsed")
        head = reader.head()
        if head is None:
            context.flight = cached.flight = cached.facts = None
            if cached.refusal is not None:
                raise cached.refusal
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
        cached = cast(CachedRequest, context.cached)
        reason, source, observers, encoding = relayed
        verdict = self._head_verdict(context)
        if cached.verdict.store:
            if verdict.storable:
                observers += (self._recorder(context, relayed, verdict),)
            else:
                self._cache.reject(verdict.reason)
        head = FlightHead(
            status=context.status,
            reason=reason,
            headers=context.response_headers,
            shareable=verdict.storable,
        )
        return Fetched(head, source, observers, context.close_upstream, bool(encoding))

    def _shared(
        self, context: RequestContext, reader: FlightReader, head: FlightHead, pays: bool
    ) -> Relayed:
        context.status = head.status
        if pays:
            context.response_headers = head.headers
            return head.reason, reader, (self._boundary(context),), ""
        context.response_headers = replayable(head.headers)
        cached = cast(CachedRequest, context.cached)
        if cached.access.mode != "off":
            cached.headers = status.forwarded(cached.verdict, collapsed=True)
        return self._unmetered(context, head.reason, reader)

    def _abandoned(self, context: RequestContext, _: Flight) -> Abandoned:
        """Decide what becomes of a flight whose last reader has left."""
        if context.principal.policy.drain_on_disconnect:
            return Abandoned.DRAIN
        return Abandoned.HOLD if cast(CachedRequest, context.cached).is_held else Abandoned.CANCEL

    def _head_verdict(self, context: RequestContext) -> HeadVerdict:
        inbound = context.inbound
        return head_verdict(
            context.status, context.response_headers, inbound.method, inbound.path
        )

    def _recorder(
        self, context: RequestContext, relayed: Relayed, head: HeadVerdict
    ) -> BodyRecorder:
        cached = cast(CachedRequest, context.cached)
        ttl = min(cached.verdict.ttl, head.ttl_cap)
        reason, source, _, _ = relayed
        # As they are now: a flight's reader has headers of its own.
        headers = replayable(context.response_headers)
        return BodyRecorder(
            self._options.max_entry_bytes,
            lambda: source.complete,
            partial(self._keep, context, cast(CacheKey, cached.key), reason, headers, ttl),
            self._cache.reject,
        )

    def _key_maker(self) -> KeyMaker | None:
        if self._keys is None:
            secret = self._secret.get()
            self._keys = None if secret is None else KeyMaker(secret)
        return self._keys

    def _keep(
        self,
        context: RequestContext,
        key: CacheKey,
        reason: str,
        headers: Headers,
        ttl: float,
        chunks: list[bytes],
    ) -> None:
        """Store a complete response if it says that it is. Does not wait."""
        usage = context.meter.reading.usage
        now = self._clock()
        entry = CachedResponse(
            scope=key.scope,
            method=context.inbound.method,
            target=context.inbound.target,
            status=context.status,
            reason=reason,
            headers=headers,
            body=b"".join(chunks),
            chunk_sizes=tuple(map(len, chunks)),
            stored_at=now,
            expires_at=now + ttl,
            provider=None,
            model=usage.model if usage else None,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
        )
        if len(entry.body) <= _MAX_PLAIN_JUDGE_BYTES:
            self._store(key, entry, _judged(entry))
        else:
            gevent.spawn(self._keep_large, key, entry)

    def _keep_large(self, key: CacheKey, entry: CachedResponse) -> None:
        self._store(key, entry, get_hub().threadpool.apply(_judged, (entry,)))

    def _store(self, key: CacheKey, entry: CachedResponse, refused: str | None) -> None:
        if refused is None:
            self._cache.put(key, entry)
        else:
            self._cache.reject(refused)

    def _unmetered(self, context: RequestContext, reason: str, source: Source) -> Relayed:
        """Return a response that costs nothing, so that it is not metered."""
        content_type, content_encoding = content_of(context.response_headers)
        context.meter = UsageMeter(content_type, content_encoding)
        cast(CachedRequest, context.cached).is_event_stream = context.meter.is_event_stream
        return reason, source, (self._boundary(context),), ""

    def _boundary(self, context: RequestContext) -> EventBoundary:
        """Return an observer of what this client gets, which is not metered."""
        _, content_encoding = content_of(context.response_headers)
        context.sent = boundary = EventBoundary(
            is_event_stream=context.meter.is_event_stream, is_plain=is_plain(content_encoding)
        )
        return boundary

    def _upstream(self, context: RequestContext) -> str:
        """Return a text that names where the request goes."""
        if context.routed is None:
            return self._own_upstream
        return "\n".join(_named(each.target) for each in context.routed.route.targets)


def _named(target: Target) -> str:
    model = "" if target.model is None else target.model
    return f"{target.provider} {target.origin}{target.prefix} {model}"


def _note_cost(context: RequestContext, flight: Flight) -> None:
    """Called at the end of a flight, with the context of the request that began it."""
    meter: UsageMeter | None = context.meter
    usage = None if meter is None else meter.reading.usage
    if usage is not None:
        flight.tokens = usage.prompt_tokens, usage.completion_tokens


def _judged(entry: CachedResponse) -> str | None:
    """Return why a response must not be kept, or None."""
    content_type, content_encoding = content_of(entry.headers)
    path = entry.target.partition("?")[0]
    return body_verdict(entry.status, content_type, content_encoding, path, entry.body)
