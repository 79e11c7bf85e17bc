"""A response as it is kept, made of the request that got it: its head, then all of it."""

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
    """Complete the entry of a head, and return it. `now` is in Unix seconds."""
    head.body = b"".join(chunks)
    head.chunk_sizes = tuple(map(len, chunks))
    head.stored_at, head.expires_at = now, now + head.expires_at
    usage = context.meter.reading.usage
    if usage is not None:
        head.model = usage.model
        head.prompt_tokens, head.completion_tokens = usage.prompt_tokens, usage.completion_tokens
    return head
