"""The arithmetic of token buckets, for any storage of their levels. It has no clock and no lock.

Note: the clock may go backwards. The level then stays as it is, and time counts from the earlier
moment on, which is stored even when nothing is taken: waiting for the later moment would block
the bucket for as long as the clock was wrong. So callers must read the clock one after another, or
the same second would count twice.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from proxy.ratelimit.limiter import Bucket, Charge, Decision

#: A debit may leave a debt of this many minutes' worth, and no more: one wrong count in a
#: response must not block an account for years.
DEBT_MINUTES: Final = 24 * 60


class Buckets(Protocol):
    """Levels of buckets. The caller holds the lock, if there is one."""

    def level(self, bucket: Bucket, now: float) -> float:
        """Return its permits now; an unknown bucket is full. A moment after `now` is replaced."""
        ...

    def set_level(self, bucket: Bucket, level: float, now: float) -> None: ...


def refilled(level: float, moment: float, now: float, per_minute: int) -> float:
    """Return the level at `now` of a bucket that had `level` at `moment` (seconds).

    The limit may have changed since.
    """
    if now > moment:
        level += (now - moment) * per_minute / 60
    # In this order, a level that is NaN (a damaged file) is a full bucket, too.
    return level if level < per_minute else per_minute


def charged(level: float, permits: int, per_minute: int) -> float:
    return min(max(level - permits, -DEBT_MINUTES * per_minute), per_minute)


def full_at(level: float, now: float, per_minute: int) -> float:
    """Return when the bucket will be full and can be forgotten, by the clock of `now`."""
    return now + (per_minute - level) * 60 / per_minute


def take(buckets: Buckets, charges: Sequence[Charge], now: float) -> Decision:
    """As :meth:`RateLimiter.take`, for buckets that the caller has locked."""
    remaining: list[float] = []
    refused = None
    for bucket, permits in charges:
        level = buckets.level(bucket, now)
        if refused is None and not (level >= permits if permits > 0 else level > 0):
            refused = len(remaining)
        remaining.append(level)
    if refused is not None:
        return Decision(remaining, refused)
    for index, (bucket, permits) in enumerate(charges):
        if permits:
            remaining[index] -= abs(permits)
            buckets.set_level(bucket, remaining[index], now)
    return Decision(remaining)


def debit(buckets: Buckets, charges: Sequence[Charge], now: float) -> None:
    """As :meth:`RateLimiter.debit`, for buckets that the caller has locked."""
    for bucket, permits in charges:
        if permits:
            level = charged(buckets.level(bucket, now), permits, bucket.per_minute)
            buckets.set_level(bucket, level, now)
