"""Requests of projects that keep responses: served from the cache, or recorded for it.

Projects that ask for none of this pass nothing of it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, cast

import gevent
from gevent import get_hub

from proxy.cache import conditional, status
from proxy.cache.access import CacheAccess
from proxy.cache.entry import CachedResponse, replayable
from proxy.cache.key import CacheKey, KeyMaker
from proxy.cache.policy import body_verdict, head_verdict, read_request
from proxy.cache.response_cache import ResponseCache
from proxy.core.errors import ProxyError
from proxy.core.usage_event import CacheFacts
from proxy.gateway.cached_body import BodyRecorder, EventBoundary, StoredBody
from proxy.gateway.cached_request import CachedRequest
from proxy.gateway.context import RequestContext
from proxy.gateway.response_stream import Relayed, Source
from proxy.providers.base import OutboundRequest, Target
from proxy.upstream.headers import content_of, is_plain
from proxy.usage.meter import UsageMeter

#: A larger body takes milliseconds to be judged, so a thread does it.
_MAX_PLAIN_JUDGE_BYTES: Final = 64 * 1024
_UNSAFE: Final = frozenset(("PUT", "PATCH", "DELETE"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CachingOptions:
    """The options of the cache, as a request needs them."""

    #: Seconds for which a response is kept; 0 means that none is.
    ttl: float
    #: Maximum size of a response that is kept, in bytes.
    max_entry_bytes: int
    #: Seconds after its expiry in which a response still serves when the upstream fails.
    stale_if_error: float = 0.0


class CachedRequests:
    """Looks requests up, and records their responses."""

    def __init__(
        self,
        cache: ResponseCache,
        keys: KeyMaker,
        own_target: Target,
        options: CachingOptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`own_target`: the upstream of projects with a key of their own. `clock`: Unix seconds."""
        self._cache = cache
        self._keys = keys
        self._own_upstream = _named(own_target)
        self._options = options
        self._clock = clock

    def find(self, context: RequestContext) -> CachedResponse | None:
        """Return the stored response that may serve the request, or None.

        Raises ProxyError ``not_cached`` where the client allows no other.
        """
        access = cast(CacheAccess, context.principal.caching)
        outbound = cast(OutboundRequest, context.outbound)
        inbound = context.inbound
        verdict = read_request(access, inbound.method, inbound.path, outbound, self._options.ttl)
        context.cached = cached = CachedRequest(access, verdict)
        if not (verdict.lookup or verdict.store or verdict.share):
            cached.headers = status.bypass(verdict.detail)
            return None
        cached.key = key = self._keys.key(access, outbound, self._upstream(context))
        entry = None
        if verdict.lookup:
            entry = self._cache.get(key)
            if entry is not None and not verdict.accepts(entry, self._clock()):
                entry = None
        if entry is not None:
            return entry
        if verdict.only_if_cached:
            raise ProxyError(code="not_cached")
        cached.headers = status.miss(verdict.detail)
        return None

    def stale(self, context: RequestContext) -> CachedResponse | None:
        """Return an expired response that may still serve, since the upstream has failed."""
        cached = cast(CachedRequest, context.cached)
        seconds = max(self._options.stale_if_error, cached.verdict.stale_if_error)
        if not cached.verdict.lookup or cached.key is None or not self._options.stale_if_error:
            return None
        entry = self._cache.get(cached.key, allow_stale=True)
        if entry is None or entry.expires_at + seconds < self._clock():
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
        if conditional.is_unmodified(context.inbound.header, entry.headers):
            context.status, headers, body = 304, conditional.not_modified(entry.headers), b""
        source = StoredBody(body, entry.chunk_sizes if body else ())
        context.response_headers = headers
        return self._unmetered(context, entry.reason if body else "Not Modified", source)

    def recorded(self, context: RequestContext, relayed: Relayed) -> Relayed:
        """Return the response with an observer that keeps it, where it may be kept."""
        cached = cast(CachedRequest, context.cached)
        inbound, key = context.inbound, cached.key
        if inbound.method in _UNSAFE and context.status < 400:
            self._cache.forget(cached.access.scope, inbound.target)
        if key is None or not cached.verdict.store:
            return relayed
        head = head_verdict(
            context.status, context.response_headers, inbound.method, inbound.path
        )
        if not head.storable:
            self._cache.reject(head.reason)
            return relayed
        ttl = min(cached.verdict.ttl, head.ttl_cap)
        reason, source, observers, encoding = relayed
        recorder = BodyRecorder(
            self._options.max_entry_bytes,
            lambda: source.complete,
            partial(self._keep, context, key, reason, ttl),
            self._cache.reject,
        )
        return reason, source, (*observers, recorder), encoding

    def _keep(
        self, context: RequestContext, key: CacheKey, reason: str, ttl: float, chunks: list[bytes]
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
            headers=replayable(context.response_headers),
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
        context.meter = meter = UsageMeter(content_type, content_encoding)
        cast(CachedRequest, context.cached).is_event_stream = meter.is_event_stream
        context.sent = boundary = EventBoundary(
            is_event_stream=meter.is_event_stream, is_plain=is_plain(content_encoding)
        )
        return reason, source, (boundary,), ""

    def _upstream(self, context: RequestContext) -> str:
        """Return a text that names where the request goes."""
        if context.routed is None:
            return self._own_upstream
        return "\n".join(_named(each.target) for each in context.routed.route.targets)


def _named(target: Target) -> str:
    model = "" if target.model is None else target.model
    return f"{target.provider} {target.origin}{target.prefix} {model}"


def _judged(entry: CachedResponse) -> str | None:
    """Return why a response must not be kept, or None."""
    content_type, content_encoding = content_of(entry.headers)
    path = entry.target.partition("?")[0]
    return body_verdict(entry.status, content_type, content_encoding, path, entry.body)
