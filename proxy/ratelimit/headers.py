"""The limits as a client sees them: headers of responses, and refusals (429).

A relayed response carries the proxy's limits under `x-proxy-ratelimit-…`, beside the upstream's
own headers. A refusal comes from the proxy alone and uses the names that SDKs know, without
`proxy-`.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal

from proxy.core.errors import ClientError
from proxy.ratelimit.limiter import Bucket, Charge

Headers = list[tuple[str, str]]
#: Whose limit it is. Also the values of a metric's label.
Limit = Literal["address", "token", "parent", "project", "global", "concurrency"]
#: Remaining permits, and their bucket.
Level = tuple[float, Bucket]


def _names(prefix: str, kind: str) -> tuple[str, str, str]:
    return f"{prefix}-limit-{kind}", f"{prefix}-remaining-{kind}", f"{prefix}-reset-{kind}"


_OUR_REQUESTS: Final = _names("x-proxy-ratelimit", "requests")
_OUR_TOKENS: Final = _names("x-proxy-ratelimit", "tokens")
_REQUESTS: Final = _names("x-ratelimit", "requests")
_TOKENS: Final = _names("x-ratelimit", "tokens")
_OWNERS: Final[dict[str, str]] = {
    "address": "your client address",
    "token": "this access token",
    "parent": "a parent of this access token",
    "project": "this project",
    "global": "all clients together",
}


def rate_limit_headers(requests: Level | None, tokens: Level | None) -> Headers:
    """Return the headers of a relayed response, for the tightest bucket of each kind."""
    if tokens is None:
        return [] if requests is None else _lines(_OUR_REQUESTS, requests)
    return rate_limit_headers(requests, None) + _lines(_OUR_TOKENS, tokens)


def rate_limited(
    limit: Limit,
    charges: Sequence[Charge],
    remaining: Sequence[float],
    refused: int,
    requests: int,
) -> ClientError:
    """Return a 429. The first `requests` of `charges` count requests, the others LLM tokens.

    `refused` is the index of the charge that was refused.
    """
    # The longest wait of all: after a shorter one, another bucket would refuse the retry.
    waits = [_wait(charge, level) for charge, level in zip(charges, remaining, strict=True)]
    seconds = max(1, math.ceil(max(waits)))
    bucket = charges[refused].bucket
    level = (remaining[refused], bucket)
    if refused >= requests:
        met = [(remaining[at], charges[at].bucket) for at in range(requests)]
        tightest = min(met, default=None)
        headers = _lines(_REQUESTS, tightest) if tightest else []
        headers += _lines(_TOKENS, level)
        kind = "token"
    else:
        headers = _lines(_REQUESTS, level)
        kind = "request"
    limited = f"{bucket.per_minute} {kind}{'' if bucket.per_minute == 1 else 's'}"
    return ClientError(
        f"Rate limit reached for {_OWNERS[limit]}: {limited} per minute. Try again in {seconds} s.",
        code="rate_limit_exceeded",
        retry_after=seconds,
        headers=headers,
    )


def too_many_concurrent(owner: Limit, maximum: int) -> ClientError:
    """Return a 429: `max_concurrent` requests are in flight."""
    return ClientError(
        f"Too many requests at once for {_OWNERS[owner]}: {maximum} may be in flight."
        " Try again when one has ended.",
        code="rate_limit_exceeded",
        retry_after=1,
    )


def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: `20ms`, `1s`, `6m0s`, `1h0m0s`; rounded up."""
    if seconds <= 0:
        return "0s"
    # No call of `ceil` here: every response needs this.
    if seconds <= 0.999:
        return f"{-(seconds * -1e3 // 1):.0f}ms"
    whole = int(-(-seconds // 1))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60}s"
    return f"{whole // 3600}h{whole % 3600 // 60}m{whole % 60}s"


def _lines(names: tuple[str, str, str], filled: Level) -> Headers:
    level, (_, maximum) = filled
    limit, remaining, reset = names
    return [
        (limit, f"{maximum}"),
        (remaining, f"{level // 1:.0f}" if level > 0 else "0"),
        (reset, duration((maximum - level) * 60 / maximum)),
    ]


def _wait(charge: Charge, level: float) -> float:
    """Return the seconds until `charge` can be taken.

    A charge of 0 needs a bucket that is not empty.
    """
    missing = max(charge.permits, 1) - level
    return missing * 60 / charge.bucket.per_minute
