"""One behaviour of rate limiters: a process's own, the node's table, a real Redis.

Redis has its own clock, so that no test here can stop time: what fills meanwhile is allowed for.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import gevent
import pytest

from proxy.ratelimit.limiter import Bucket, Charge, Decision, RateLimiter
from proxy.ratelimit.node import NodeLimiter
from proxy.ratelimit.process import ProcessLimiter
from proxy.ratelimit.redis import RedisLimiter
from proxy.ratelimit.token_bucket import DEBT_MINUTES
from tests.support.limiter_stress import STANDING, hammer
from tests.support.services import RedisServer
from tests.support.wait import wait_until


@pytest.fixture(params=["process", "node", "redis"])
def limiter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RateLimiter]:
    makers: dict[str, Callable[[], RateLimiter]] = {
        "process": ProcessLimiter,
        "node": lambda: NodeLimiter(tmp_path / "buckets"),
        "redis": lambda: RedisLimiter.from_url(request.getfixturevalue("redis_server").url),
    }
    made = makers[request.param]()
    yield made
    made.close()


def new(per_minute: int) -> Bucket:
    return Bucket(f"{uuid4()}", per_minute)


class Measured:
    """Calls of one limiter, and how much a bucket can have filled since the first."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        self._begin = time.monotonic()

    def take(self, *charges: tuple[Bucket, int]) -> Decision:
        return self._limiter.take([Charge(*demand) for demand in charges])

    def debit(self, *charges: tuple[Bucket, int]) -> None:
        self._limiter.debit([Charge(*charge) for charge in charges])

    def level(self, bucket: Bucket) -> float:
        return self.take((bucket, 0)).remaining[0]

    def is_about(self, level: float, expected: float, per_minute: int) -> bool:
        # Redis counts microseconds, and on another clock.
        filled = (time.monotonic() - self._begin) * per_minute / 60 * 1.01 + 1e-3
        return expected - 1e-6 <= level <= expected + filled


@pytest.fixture
def calls(limiter: RateLimiter) -> Measured:
    return Measured(limiter)


def test_a_peek_takes_nothing_and_never_returns_less_than_there_is(limiter: RateLimiter) -> None:
    bucket = new(60)
    assert limiter.peek(bucket) == 60
    limiter.take([Charge(bucket, 50)])
    assert limiter.peek(bucket) >= 10
    assert limiter.peek(bucket) >= 10
    if not isinstance(limiter, RedisLimiter):  # which would have to be asked
        assert limiter.peek(bucket) < 60


def test_a_new_bucket_holds_a_minutes_worth(calls: Measured) -> None:
    bucket = new(5)
    first = calls.take((bucket, 1))
    assert first.refused is None
    assert calls.is_about(first.remaining[0], 4, 5)


def test_no_more_passes_than_there_is(calls: Measured) -> None:
    bucket = new(20)
    begin = time.monotonic()
    met = sum(calls.take((bucket, 1)).refused is None for _ in range(60))
    assert 20 <= met <= 20 + (time.monotonic() - begin) * 20 / 60 + 1


def test_it_fills_again(calls: Measured) -> None:
    bucket = new(60_000)
    assert calls.take((bucket, 60_000)).refused is None
    assert calls.take((bucket, 60_000)).refused == 0
    wait_until(lambda: calls.take((bucket, 10)).refused is None)
    assert calls.level(bucket) < 60_000


def test_all_or_nothing(calls: Measured) -> None:
    wide, narrow, other = new(100), new(2), new(100)
    charges = ((wide, 1), (narrow, 2), (other, 1))
    assert calls.take(*charges).refused is None
    refused = calls.take(*charges)
    assert refused.refused == 1
    assert len(refused.remaining) == 3
    assert calls.is_about(refused.remaining[1], 0, 2)
    assert calls.is_about(calls.level(wide), 99, 100)
    assert calls.is_about(calls.level(other), 99, 100)


def test_the_first_that_refuses_is_named(calls: Measured) -> None:
    full, empty, also_empty = new(5), new(2), new(2)
    calls.take((empty, 2), (also_empty, 2))
    assert calls.take((full, 1), (empty, 2), (also_empty, 2)).refused == 1


def test_more_than_a_bucket_holds_is_never_met(calls: Measured) -> None:
    bucket = new(5)
    assert calls.take((bucket, 6)).refused == 0
    assert calls.take((bucket, 5)).refused is None


def test_a_demand_of_nothing_wants_something_there(calls: Measured) -> None:
    bucket, other = new(10), new(10)
    assert calls.take((bucket, 0), (other, 1)).remaining[0] == 10
    calls.debit((bucket, 1000))
    refused = calls.take((other, 1), (bucket, 0))
    assert refused.refused == 1
    assert calls.is_about(refused.remaining[1], -990, 10)
    assert calls.is_about(calls.level(other), 9, 10)


def test_what_is_held_is_taken_where_something_is_left(calls: Measured) -> None:
    bucket, other = new(10), new(10)
    assert calls.take((bucket, -4)).refused is None
    assert calls.is_about(calls.level(bucket), 6, 10)
    assert calls.take((other, 1), (bucket, -10)).refused is None
    assert calls.is_about(calls.level(bucket), -4, 10)
    assert calls.take((other, 1), (bucket, -1)).refused == 1
    assert calls.is_about(calls.level(other), 9, 10)
    assert calls.is_about(calls.level(bucket), -4, 10)


def test_what_was_held_is_given_back_and_no_more(calls: Measured) -> None:
    bucket = new(10)
    calls.take((bucket, -10))
    calls.debit((bucket, -7))
    assert calls.is_about(calls.level(bucket), 7, 10)
    calls.debit((bucket, -700))
    assert calls.level(bucket) == 10
    calls.take((bucket, 10))
    assert calls.take((bucket, 1)).refused == 0, "nothing was saved beyond a minute's worth"


def test_settling_goes_below_zero_and_needs_no_permits(calls: Measured) -> None:
    bucket = new(10)
    calls.debit((bucket, 4))
    assert calls.is_about(calls.level(bucket), 6, 10)
    calls.debit((bucket, 20), (new(3), 1))
    assert calls.is_about(calls.level(bucket), -14, 10)


def test_a_debt_has_an_end(calls: Measured) -> None:
    bucket = new(10)
    calls.debit((bucket, 10**18))
    assert calls.is_about(calls.level(bucket), -10 * DEBT_MINUTES, 10)


def test_a_limit_may_change(calls: Measured) -> None:
    bucket = new(1000)
    calls.take((bucket, 100))
    lower, higher = bucket._replace(per_minute=10), bucket._replace(per_minute=5000)
    assert calls.take((lower, 1)).remaining == [9]
    level = calls.take((higher, 1)).remaining[0]
    assert calls.is_about(level, 8, 5000)


def test_keys_are_any_text(calls: Measured) -> None:
    keys = ["", "a b", "ip:2001:db8::1", "{}", "ключ\n", "x" * 5000]
    mark = uuid4()
    for key in keys:
        assert calls.take((Bucket(f"{key}{mark}", 1), 1)).refused is None
    for key in keys:
        assert calls.take((Bucket(f"{key}{mark}", 1), 1)).refused == 0


def test_no_demands_are_met(calls: Measured) -> None:
    assert calls.take() == Decision([])
    calls.debit()


def test_many_greenlets_at_once(limiter: RateLimiter) -> None:
    bucket = new(30)
    begin = time.monotonic()
    greenlets = [
        gevent.spawn(lambda: limiter.take([Charge(bucket, 1)]).refused is None) for _ in range(100)
    ]
    met = sum(greenlet.get() for greenlet in greenlets)
    assert 30 <= met <= 30 + (time.monotonic() - begin) * 30 / 60 + 1


def test_processes_on_one_table(tmp_path: Path) -> None:
    place = tmp_path / "buckets"
    blows = hammer("node", str(place), ["one"] * 4, 1000, calls=1500)
    assert sum(blows.met) == 1000
    table = NodeLimiter(place, clock=lambda: STANDING)
    for number, met in enumerate(blows.met):
        own = Charge(Bucket(f"own-{number}", 1_000_000), 0)
        assert table.take([own]).remaining == [1_000_000 - met]  # what was refused took nothing


def test_processes_on_one_redis(redis_server: RedisServer) -> None:
    key = f"{uuid4()}"
    blows = hammer("redis", redis_server.url, [key] * 4, 240, calls=250)
    assert 240 <= sum(blows.met) <= 240 + blows.seconds * 240 / 60
