"""The arithmetic of buckets, whatever the order of what comes
(``proxy/ratelimit/token_bucket.py``)."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as some

from proxy.ratelimit import token_bucket as arithmetic
from proxy.ratelimit.limiter import Bucket, Charge
from proxy.ratelimit.process import ProcessBuckets
from proxy.ratelimit.token_bucket import DEBT_MINUTES, charged, full_at, refilled

#: What float arithmetic may add to a bound.
EXACTLY = 1e-6


def test_time_fills_up_to_a_minutes_worth() -> None:
    assert refilled(0, 100, 130, 60) == 30
    assert refilled(-30, 100, 130, 60) == 0
    assert refilled(50, 100, 130, 60) == 60


def test_a_clock_that_goes_backwards_changes_nothing() -> None:
    assert refilled(7, 100, 90, 60) == 7
    assert refilled(7, 90, 91, 60) == 8  # and time counts on from there


def test_a_smaller_limit_holds_at_once_and_a_larger_one_fills_faster() -> None:
    assert refilled(50, 100, 100, 10) == 10
    assert refilled(10, 100, 101, 600) == 20


def test_a_damaged_level_is_a_full_bucket() -> None:
    assert refilled(float("nan"), 100, 101, 60) == 60


def test_a_debt_is_a_days_worth_at_most() -> None:
    assert charged(5, 10, 60) == -5
    assert charged(5, 10**20, 60) == -60 * DEBT_MINUTES


def test_when_it_is_full_again() -> None:
    assert full_at(60, 100, 60) == 100
    assert full_at(-60, 100, 60) == 220


@dataclass(frozen=True)
class Step:
    """``seconds`` after the step before it, ``permits`` of the first ``buckets`` are taken."""

    seconds: float
    permits: int
    buckets: int


STEPS = some.lists(
    some.builds(
        Step,
        some.one_of(some.just(0.0), some.floats(0, 200)),
        some.integers(0, 12),
        some.integers(1, 3),
    ),
    max_size=60,
)


@given(steps=STEPS, limits=some.lists(some.integers(1, 50), min_size=3, max_size=3))
def test_no_more_than_burst_and_rate_pass_in_any_stretch(
    steps: list[Step], limits: list[int]
) -> None:
    """Of each bucket, from any call to any later one; and what there is, is given."""
    kept = ProcessBuckets()
    buckets = [Bucket(f"{index}", limit) for index, limit in enumerate(limits)]
    now = 1_000_000.0
    taken: list[tuple[float, tuple[int, ...]]] = []
    for step in steps:
        now += step.seconds
        charges = [Charge(bucket, step.permits) for bucket in buckets[: step.buckets]]
        before = [kept.level(bucket, now) for bucket in buckets]
        decision = arithmetic.take(kept, charges, now)
        enough = [level >= step.permits if step.permits else level > 0 for level in before]
        enough = enough[: step.buckets]
        assert decision.refused == (None if all(enough) else enough.index(False))
        met = decision.refused is None
        taken.append((now, tuple(step.permits * (met and i < step.buckets) for i in range(3))))
    for index, limit in enumerate(limits):
        for first in range(len(taken)):
            passed = 0
            for moment, permits in taken[first:]:
                passed += permits[index]
                assert passed <= limit + (moment - taken[first][0]) * limit / 60 + EXACTLY


@given(
    moves=some.lists(some.floats(-300, 300), max_size=40),
    limit=some.integers(1, 50),
)
def test_whatever_the_clock_does_only_its_way_forward_counts(
    moves: list[float], limit: int
) -> None:
    kept = ProcessBuckets()
    bucket = Bucket("one", limit)
    now, forward, passed = 1_000_000.0, 0.0, 0
    for move in moves:
        now += move
        forward += max(move, 0)
        while arithmetic.take(kept, [Charge(bucket, 1)], now).refused is None:
            passed += 1
        assert passed <= limit + forward * limit / 60 + EXACTLY
        # And it is never shut for longer than an honest clock needs.
        kept_level = kept.level(bucket, now + 60 / limit + EXACTLY)
        assert kept_level >= 1 - EXACTLY


@given(charges=some.lists(some.integers(0, 500), max_size=20), limit=some.integers(1, 50))
def test_what_was_settled_is_paid_back(charges: list[int], limit: int) -> None:
    kept = ProcessBuckets()
    bucket = Bucket("one", limit)
    for permits in charges:
        arithmetic.debit(kept, [Charge(bucket, permits)], 1000.0)
    owed = min(sum(charges), limit * (DEBT_MINUTES + 1))
    assert kept.level(bucket, 1000.0) == pytest.approx(limit - owed)
    assert kept.level(bucket, 1000.0 + owed * 60 / limit) == pytest.approx(limit)
