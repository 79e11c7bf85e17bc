"""What a client is told about its limits: headers of answers that pass, and refusals.

An answer that passes has ours under ``x-proxy-ratelimit-…``, beside the upstream's own. A
rate_limited, which is ours alone, uses the names that SDKs know, without ``proxy-``.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

from proxy.core.errors import ClientError
from proxy.ratelimit.limiter import Bucket, Charge

Headers = list[tuple[str, str]]
#: Which limit; also the values of a label.
Limit = Literal["address", "token", "parent", "project", "global", "concurrency"]
#: How a limit came to be filled: its permits, and its bucket.
Level = tuple[float, Bucket]


def _names(prefix: str, kind: str) -> tuple[str, str, str]:
    return f"{prefix}-limit-{kind}", f"{prefix}-remaining-{kind}", f"{prefix}-reset-{kind}"


_OUR_REQUESTS: Final = _names("x-proxy-ratelimit", "requests")
_OUR_TOKENS: Final = _names("x-proxy-ratelimit", "tokens")
_REQUESTS: Final = _names("x-ratelimit", "requests")
_TOKENS: Final = _names("x-ratelimit", "tokens")
_WHOSE: Final[dict[str, str]] = {
    "address": "your client address",
    "token": "this access token",
    "parent": "a parent of this access token",
    "project": "this project",
    "global": "all clients together",
}


def rate_limit_headers(requests: Level | None, tokens: Level | None) -> Headers:
    """Of an answer that passes; the tightest bucket of each kind."""
    if tokens is None:
        return [] if requests is None else _told(_OUR_REQUESTS, requests)
    return rate_limit_headers(requests, None) + _told(_OUR_TOKENS, tokens)


def rate_limited(
    limit: Limit,
    demands: Sequence[Charge],
    levels: Sequence[float],
    refused: int,
    requests: int,
) -> ClientError:
    """A 429. The first ``requests`` of ``demands`` count requests, the rest LLM tokens; ``refused``
    is the index of the one that could not be met."""
    # A client that is told of the first alone would come back to be refused by the second.
    waits = [_wait(demand, level) for demand, level in zip(demands, levels, strict=True)]
    seconds = max(1, math.ceil(max(waits)))
    bucket = demands[refused].bucket
    level = (levels[refused], bucket)
    if refused >= requests:
        met = [(levels[at], demands[at].bucket) for at in range(requests)]
        tightest = min(met, default=None)
        headers = _told(_REQUESTS, tightest) if tightest else []
        headers += _told(_TOKENS, level)
        kind = "token"
    else:
        headers = _told(_REQUESTS, level)
        kind = "request"
    most = f"{bucket.per_minute} {kind}{'' if bucket.per_minute == 1 else 's'}"
    return ClientError(
        f"Rate limit reached for {_WHOSE[limit]}: {most} per minute. Try again in {seconds} s.",
        code="rate_limit_exceeded",
        retry_after=seconds,
        headers=headers,
    )


def too_many_concurrent(whose: Limit, most: int) -> ClientError:
    """A 429: ``max_concurrent`` requests are under way."""
    return ClientError(
        f"Too many requests at once for {_WHOSE[whose]}: {most} may be under way."
        " Try again when one has ended.",
        code="rate_limit_exceeded",
        retry_after=1,
    )


def duration(seconds: float) -> str:
    """As OpenAI writes it: ``20ms``, ``1s``, ``6m0s``, ``1h0m0s``; rounded up."""
    if seconds <= 0:
        return "0s"
    # No call of `ceil` here: this is made for every answer.
    if seconds <= 0.999:
        return f"{-(seconds * -1e3 // 1):.0f}ms"
    whole = int(-(-seconds // 1))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    return f"{whole // 3600}h{whole % 3600 // 60}m{whole % 60}s"


def _told(names: tuple[str, str, str], filled: Level) -> Headers:
    level, (_, most) = filled
    limit, remaining, reset = names
    return [
        (limit, f"{most}"),
        (remaining, f"{level // 1:.0f}" if level > 0 else "0"),
        (reset, duration((most - level) * 60 / most)),
    ]


def _wait(demand: Charge, level: float) -> float:
    """Seconds until ``demand`` can be met; one of nothing needs something to be left."""
    missing = max(demand.permits, 1) - level
    return missing * 60 / demand.bucket.per_minute
