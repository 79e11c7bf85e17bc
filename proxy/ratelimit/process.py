"""Buckets of one process: what decides when nothing shared can, and what a full table leaves over.

The thing to get wrong: these are a net, not a limit of the node. N workers let through N times as
much, which is bounded, and that is all they are for.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from proxy.ratelimit import token_bucket as arithmetic
from proxy.ratelimit.limiter import Bucket, Charge, Decision

#: About 15 MB of them. A flood of addresses must not take all memory.
_MOST: Final = 65_536


class ProcessBuckets:
    """At most ``most``: beyond that the one goes that nobody has touched for longest.

    It has had the longest time to fill, so that forgetting it gives away the least.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        #: Key → level, its moment, when it will be full; those touched last are at the end.
        self._kept: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def is_busy(self, key: str, now: float) -> bool:
        """Whether there is such a bucket, and it is not full."""
        kept = self._kept.get(key)
        return kept is not None and kept[2] > now

    def level(self, bucket: Bucket, now: float) -> float:
        kept = self._kept.get(bucket.key)
        if kept is None:
            return bucket.per_minute
        level, moment, _ = kept
        if moment > now:
            self.keep(bucket, level, now)
        return arithmetic.refilled(level, moment, now, bucket.per_minute)

    def keep(self, bucket: Bucket, level: float, now: float) -> None:
        key, per_minute = bucket
        self._kept[key] = (level, now, arithmetic.full_at(level, now, per_minute))
        self._kept.move_to_end(key)
        # Two go for each that comes, as long as the oldest are full again: no sweep is needed.
        for _ in range(2):
            oldest = next(iter(self._kept), None)
            if oldest is None or (len(self._kept) <= self._most and self.is_busy(oldest, now)):
                break
            del self._kept[oldest]


class ProcessLimiter:
    """A RateLimiter that never fails and shares with nobody."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, most: int = _MOST) -> None:
        self._clock = clock
        self._buckets = ProcessBuckets(most)

    def take(self, demands: Sequence[Charge]) -> Decision:
        return arithmetic.take(self._buckets, demands, self._clock())

    def peek(self, bucket: Bucket) -> float:
        return self._buckets.level(bucket, self._clock())

    def settle(self, charges: Sequence[Charge]) -> None:
        arithmetic.settle(self._buckets, charges, self._clock())

    def close(self) -> None:
        """Nothing is held."""
