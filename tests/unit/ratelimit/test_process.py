"""Buckets of one process (``proxy/ratelimit/process.py``)."""

from proxy.ratelimit.limiter import Bucket, Charge
from proxy.ratelimit.process import ProcessBuckets, ProcessLimiter


def test_full_buckets_go_by_themselves() -> None:
    kept = ProcessBuckets()
    for number in range(1000):
        # Each is full again after a second, and ten come in a second.
        kept.set_level(Bucket(f"{number}", 60), 59, now=number / 10)
    assert len(kept) <= 11


def test_there_is_an_end_to_them_and_the_longest_untouched_goes() -> None:
    kept = ProcessBuckets(max_buckets=10)
    for number in range(10):
        kept.set_level(Bucket(f"{number}", 60), 0, now=0)
    kept.set_level(Bucket("0", 60), -5, now=1)
    kept.set_level(Bucket("new", 60), 0, now=1)
    assert len(kept) == 10
    assert kept.level(Bucket("0", 60), 1) == -5
    assert kept.level(Bucket("1", 60), 1) == 60  # forgotten


def test_its_clock_fills_it() -> None:
    now = 0.0
    limiter = ProcessLimiter(clock=lambda: now)
    demand = [Charge(Bucket("one", 2), 1)]
    assert [limiter.take(demand).refused for _ in range(3)] == [None, None, 0]
    now = 30.0
    assert [limiter.take(demand).refused for _ in range(2)] == [None, 0]
