"""Limiters in this process, with a clock that stands still."""

from collections.abc import Sequence

from proxy.ratelimit.limiter import Bucket, Charge, Decision
from proxy.ratelimit.request_limiter import Limiters, Rates, RequestLimiter


class FakeLimiter:
    """``calls`` are the keys asked for together; ``charged`` what was settled, in all."""

    def __init__(self) -> None:
        self.levels: dict[Bucket, float] = {}
        self.calls: list[list[str]] = []
        self.charged: dict[str, int] = {}
        self.error: Exception | None = None

    def take(self, charges: Sequence[Charge]) -> Decision:
        self.calls.append([bucket.key for bucket, _ in charges])
        if self.error is not None:
            raise self.error
        levels = [self.levels.get(bucket, float(bucket.per_minute)) for bucket, _ in charges]
        for at, (_, permits) in enumerate(charges):
            if levels[at] < permits or levels[at] <= 0:
                return Decision(levels, at)
        for at, (bucket, permits) in enumerate(charges):
            levels[at] -= abs(permits)
            self.levels[bucket] = levels[at]
        return Decision(levels)

    def peek(self, bucket: Bucket) -> float:
        return self.levels.get(bucket, float(bucket.per_minute))

    def debit(self, charges: Sequence[Charge]) -> None:
        for bucket, permits in charges:
            self.charged[bucket.key] = self.charged.get(bucket.key, 0) + permits
            self.levels[bucket] = self.levels.get(bucket, float(bucket.per_minute)) - permits

    def close(self) -> None:
        pass


class FakePlaces:
    """``taken`` is how many are under way, by key."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}

    def reserve(self, bounds: Sequence[tuple[str, int]]) -> int | None:
        for at, (key, most) in enumerate(bounds):
            if self.taken.get(key, 0) >= most:
                return at
        for key, _ in bounds:
            self.taken[key] = self.taken.get(key, 0) + 1
        return None

    def release(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.taken[key] -= 1


class Limited:
    """A throttle and what is behind it."""

    def __init__(self, rates: Rates | None = None, *, shared: bool = False) -> None:
        self.near = FakeLimiter()
        self.shared = FakeLimiter() if shared else None
        self.places = FakePlaces()
        self.throttle = RequestLimiter(
            rates or Rates(),
            Limiters(
                near=self.near,
                shared=self.shared,
                debit=(self.shared or self.near).debit,
                concurrency=self.places,
            ),
        )
