"""What a response says of the cache: `X-Cache`, `Cache-Status` (RFC 9211), `Age`, and its origin.

X-Cache: HIT                                    MISS, BYPASS
Cache-Status: openai-proxy; hit; ttl=241
Age: 59                                         these three on hits alone
X-Cache-Timestamp: 2026-11-28T06:15:39Z
X-Cache-Key: 9f86d081884c7d65
"""

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from proxy.cache.entry import CachedResponse
from proxy.cache.policy import Forward, RequestVerdict
from proxy.providers.base import HeaderList

_NAME: Final = "openai-proxy"


def hit(key_name: str, entry: CachedResponse, now: float, *, stale: bool = False) -> HeaderList:
    """Return the lines of a response that comes from the cache. `now` is in Unix seconds.

    The `ttl` of a response that has expired is negative (RFC 9211 §2.4). `stale`: it is served
    since the upstream fails.
    """
    ttl = math.floor(entry.expires_at - now)
    detail = "; detail=stale-if-error" if stale else ""
    return [
        ("X-Cache", "HIT"),
        ("Cache-Status", f"{_NAME}; hit; ttl={ttl}{detail}"),
        *_origin(entry.stored_at, now),
        ("X-Cache-Key", key_name),
    ]


def replayed(stored_at: float, now: float) -> HeaderList:
    """Return the lines of the result of an earlier request with the same `Idempotency-Key`."""
    return [
        ("X-Cache", "HIT"),
        ("Cache-Status", f"{_NAME}; hit; detail=idempotency-key"),
        *_origin(stored_at, now),
    ]


def forwarded(
    verdict: RequestVerdict, *, expired: bool = False, collapsed: bool = False
) -> HeaderList:
    """Return the lines of a response that comes from the upstream.

    `expired`: something is stored, but the request does not accept it any more. `collapsed`: the
    response is that of another request, which this one has joined.
    """
    forward = verdict.forward
    if expired and forward is Forward.MISS:
        forward = Forward.STALE
    status = f"{_NAME}; fwd={forward}{'; collapsed' if collapsed else ''}{_detail(verdict.detail)}"
    return [("X-Cache", "MISS" if verdict.uses_cache else "BYPASS"), ("Cache-Status", status)]


def timestamp(unix_seconds: float) -> str:
    """Return a time as in RFC 3339, in UTC and whole seconds."""
    return _second(int(unix_seconds))


@lru_cache(maxsize=256)
def _second(unix_seconds: int) -> str:
    # A response that many ask for has one time.
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _origin(stored_at: float, now: float) -> HeaderList:
    return [
        ("Age", str(max(0, int(now - stored_at)))),
        ("X-Cache-Timestamp", timestamp(stored_at)),
    ]


def _detail(token: str) -> str:
    """Return the parameter. `token` is one of RFC 8941 §3.3.4, or "" for none."""
    return f"; detail={token}" if token else ""
