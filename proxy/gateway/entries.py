"""A response as it is kept, made of the request that got it: its head, then all of it."""

from dataclasses import replace

from proxy.cache.entry import CachedResponse, replayable
from proxy.gateway.context import RequestContext


def entry_of_head(
    context: RequestContext, reason: str, scope: str, lifetime: float
) -> CachedResponse:
    """Return the entry without what only the end of the response shows.

    Its `expires_at` is its `lifetime` in seconds.
    """
    return CachedResponse(
        scope=scope,
        method=context.inbound.method,
        target=context.inbound.target,
        status=context.status,
        reason=reason,
        headers=replayable(context.response_headers),
        body=b"",
        chunk_sizes=(),
        stored_at=0.0,
        expires_at=lifetime,
        provider=None,
        model=None,
        prompt_tokens=None,
        completion_tokens=None,
    )


def whole_entry(
    context: RequestContext, head: CachedResponse, chunks: list[bytes], now: float
) -> CachedResponse:
    """Return the entry of a complete response. `now` is in Unix seconds."""
    usage = context.meter.reading.usage
    return replace(
        head,
        body=b"".join(chunks),
        chunk_sizes=tuple(map(len, chunks)),
        stored_at=now,
        expires_at=now + head.expires_at,
        model=usage.model if usage else None,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
    )
