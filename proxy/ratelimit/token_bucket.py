"""The arithmetic of token buckets, for whatever keeps their levels; no clock, no lock.

The thing to get wrong: a clock that goes backwards. The level then stays as it is and time counts
from the earlier moment on, which is kept also when nothing is taken: waiting for the later one
would shut the bucket for as long as the clock was wrong. So all callers have to read the clock one
after another, or the same second would count twice.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from proxy.ratelimit.limiter import Bucket, Charge, Decision

#: What is settled may leave a debt of this many minutes' worth, and no more: one absurd figure in
#: an answer must not shut an account for years.
DEBT_MINUTES: Final = 24 * 60


class Buckets(Protocol):
    """Levels of buckets. Whoever calls sees to it that nobody else does meanwhile."""

    def level(self, bucket: Bucket, now: float) -> float:
        """Permits in it now; one that is not known is full. A moment after ``now`` is not kept."""
        ...

    def keep(self, bucket: Bucket, level: float, now: float) -> None: ...


def refilled(level: float, moment: float, now: float, per_minute: int) -> float:
    """What ``level``, true at ``moment``, is ``now`` (seconds). The limit may be another by now."""
    if now > moment:
        level += (now - moment) * per_minute / 60
    # Said this way round, a level that is no number (a damaged file) is a full bucket, too.
    return level if level < per_minute else per_minute


def charged(level: float, permits: int, per_minute: int) -> float:
    return min(max(level - permits, -DEBT_MINUTES * per_minute), per_minute)


def full_at(level: float, now: float, per_minute: int) -> float:
    """When it will be full, and so as good as forgotten; in seconds of the clock of ``now``."""
    return now + (per_minute - level) * 60 / per_minute


def take(buckets: Buckets, demands: Sequence[Charge], now: float) -> Decision:
    """:meth:`RateLimiter.take`, for buckets that nobody else touches meanwhile."""
    levels: list[float] = []
    refused = None
    for bucket, permits in demands:
        level = buckets.level(bucket, now)
        if refused is None and not (level >= permits if permits > 0 else level > 0):
            refused = len(levels)
        levels.append(level)
    if refused is not None:
        return Decision(levels, refused)
    for index, (bucket, permits) in enumerate(demands):
        if permits:
            levels[index] -= abs(permits)
            buckets.keep(bucket, levels[index], now)
    return Decision(levels)


def settle(buckets: Buckets, charges: Sequence[Charge], now: float) -> None:
    """:meth:`RateLimiter.settle`, likewise."""
    for bucket, permits in charges:
        if permits:
            level = charged(buckets.level(bucket, now), permits, bucket.per_minute)
            buckets.keep(bucket, level, now)
