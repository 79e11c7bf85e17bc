"""Buckets of one process: the last fallback, and the overflow of a full node table.

Note: these are no limit of the node. N workers let through N times as much.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from proxy.ratelimit import token_bucket
from proxy.ratelimit.limiter import Bucket, Charge, Decision

#: About 15 MB of buckets. A flood of addresses must not take all memory.
_MAX_BUCKETS: Final = 65_536


class ProcessBuckets:
    """At most `max_buckets` buckets; beyond that, the least recently used one is dropped.

    That bucket has had the longest time to fill, so dropping it gives away the least.
    """

    def __init__(self, max_buckets: int = _MAX_BUCKETS) -> None:
        self._max = max_buckets
        #: Key → level, its moment, when it will be full; the most recently used is last.
        self._kept: OrderedDict[str, tuple[float, float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def is_busy(self, key: str, now: float) -> bool:
        """Return whether the bucket is known and not full."""
        kept = self._kept.get(key)
        return kept is not None and kept[2] > now

    def level(self, bucket: Bucket, now: float) -> float:
        kept = self._kept.get(bucket.key)
        if kept is None:
            return bucket.per_minute
        level, moment, _ = kept
        if moment > now:
            self.set_level(bucket, level, now)
        return token_bucket.refilled(level, moment, now, bucket.per_minute)

    def set_level(self, bucket: Bucket, level: float, now: float) -> None:
        key, per_minute = bucket
        self._kept[key] = (level, now, token_bucket.full_at(level, now, per_minute))
        self._kept.move_to_end(key)
        # Drop up to two full ones for each that is added, so that no sweep is needed.
        for _ in range(2):
            oldest = next(iter(self._kept), None)
            if oldest is None or (len(self._kept) <= self._max and self.is_busy(oldest, now)):
                break
            del self._kept[oldest]


class ProcessLimiter:
    """A RateLimiter that never fails and shares nothing with other processes."""

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, max_buckets: int = _MAX_BUCKETS
    ) -> None:
        self._clock = clock
        self._buckets = ProcessBuckets(max_buckets)

    def take(self, charges: Sequence[Charge]) -> Decision:
        return token_bucket.take(self._buckets, charges, self._clock())

    def peek(self, bucket: Bucket) -> float:
        return self._buckets.level(bucket, self._clock())

    def debit(self, charges: Sequence[Charge]) -> None:
        token_bucket.debit(self._buckets, charges, self._clock())

    def close(self) -> None:
        """Do nothing: no resource is held."""
