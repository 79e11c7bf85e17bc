"""What may be read from the cache, stored in it, and shared while it is in flight.

Three verdicts: of the request, before the upstream is asked; of the response's head; of its body,
after the last byte.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from proxy.cache.access import CacheAccess
from proxy.cache.entry import CachedResponse


class Forward(StrEnum):
    """Why a request goes upstream: values of `fwd` in `Cache-Status` (RFC 9211 §2.2)."""

    #: The cache has nothing to do with such requests.
    BYPASS = "bypass"
    #: The request's directives ask for it.
    REQUEST = "request"
    #: Nothing is stored.
    MISS = "uri-miss"
    #: What is stored has expired.
    STALE = "stale"


class Rejection(StrEnum):
    """Why a response is not stored."""

    STATUS = "status"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """What the operator allows. Both are in seconds.

    `ttl` is `CACHE_TTL`, 0 for no cache; `stale_if_error` is `CACHE_STALE_IF_ERROR`.
    """

    ttl: float
    stale_if_error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestVerdict:
    """What the cache may do for a request.

    Attributes:
        lookup: A stored response may be served.
        store: The response may be stored, for `ttl` seconds at most.
        share: The request may join an identical one in flight, or be joined.
        forget: Stored responses to GET requests for its target are void once it has succeeded.
        ttl: Seconds. None where nothing is stored.
        max_age: Seconds since a response was stored, at most. None: any.
        min_fresh: Seconds for which a response must stay fresh.
        max_stale: Seconds since it expired, at most.
        stale_if_error: The same, where the upstream fails.
        only_if_cached: Without a stored response, the client wants a 504 `not_cached`.
        forward: Why the request goes upstream where it does; for `Cache-Status`.
        detail: The same in more detail; "" where there is none.
    """

    lookup: bool = False
    store: bool = False
    share: bool = False
    forget: bool = False
    ttl: float | None = None
    max_age: float | None = None
    min_fresh: float = 0.0
    max_stale: float = 0.0
    stale_if_error: float = 0.0
    only_if_cached: bool = False
    forward: Forward = Forward.BYPASS
    detail: str = ""

    def accepts(self, entry: CachedResponse, now: float) -> bool:
        """Whether the client accepts `entry` at the time `now`, in Unix seconds."""
        left = entry.expires_at - now
        if self.max_age is not None and now - entry.stored_at > self.max_age:
            return False
        return left >= self.min_fresh if left > 0 else -left <= self.max_stale

    def accepts_on_error(self, entry: CachedResponse, now: float) -> bool:
        """Whether the client accepts `entry` where the upstream fails."""
        return now - entry.expires_at <= self.stale_if_error


@dataclass(frozen=True, slots=True)
class HeadVerdict:
    """Whether a response may be stored and shared, as far as its head says.

    `ttl_cap` is in seconds; None: the request's `ttl` holds. `reason` says why it is not storable.
    """

    storable: bool
    ttl_cap: float | None = None
    reason: Rejection | None = None


def read_request(
    access: CacheAccess,
    method: str,
    path: str,
    headers: Sequence[tuple[str, str]],
    body: bytes | Iterable[bytes] | None,
    options: CacheOptions,
) -> RequestVerdict:
    """Return what the cache may do for a request.

    `path` is that of the target, without its query. `body` is as in OutboundRequest.
    """
    return RequestVerdict()


def head_verdict(
    status: int, headers: Sequence[tuple[str, str]], method: str, path: str
) -> HeadVerdict:
    """Return whether the response with this head may be stored and shared."""
    return HeadVerdict(storable=False, reason=Rejection.STATUS)


def body_verdict(
    status: int, content_type: str, content_encoding: str, path: str, body: bytes
) -> Rejection | None:
    """Return why a response is not stored; None: it is complete, and says so.

    Lets other greenlets run if the body is large.
    """
    return Rejection.INCOMPLETE
