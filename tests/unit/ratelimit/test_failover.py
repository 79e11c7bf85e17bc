"""The limiter that falls back while its primary fails (``proxy/ratelimit/failover.py``)."""

from collections.abc import Sequence
from itertools import pairwise

import gevent
import pytest
from gevent.event import Event

from proxy.core.errors import LimiterError
from proxy.ratelimit.failover import FailoverLimiter
from proxy.ratelimit.limiter import Bucket, Charge, Decision

DEMANDS = [Charge(Bucket("one", 60), 1)]


class Part:
    """Counts its calls; fails while it is told to, and waits for what it is told to."""

    def __init__(self) -> None:
        self.taken = self.settled = self.closed = 0
        self.fails = False
        self.held: Event | None = None

    def take(self, _demands: Sequence[Charge]) -> Decision:
        self.taken += 1
        fails = self.fails
        if self.held is not None:
            self.held.wait()
        if fails:
            raise LimiterError from OSError("away")
        return Decision([self.taken])

    def debit(self, _charges: Sequence[Charge]) -> None:
        self.settled += 1
        if self.fails:
            raise LimiterError from OSError("away")

    def close(self) -> None:
        self.closed += 1


class Bench:
    def __init__(self, *, closed: bool = False) -> None:
        self.now = 0.0
        self.primary, self.fallback = Part(), Part()
        self.limiter = FailoverLimiter(
            self.primary, None if closed else self.fallback, name="Redis", clock=lambda: self.now
        )

    def take(self) -> Decision:
        return self.limiter.take(DEMANDS)


def test_while_the_primary_works_the_fallback_is_not_charged() -> None:
    bench = Bench()
    bench.take()
    bench.limiter.debit(DEMANDS)
    assert (bench.primary.taken, bench.primary.settled) == (1, 1)
    assert (bench.fallback.taken, bench.fallback.settled) == (0, 0)
    assert not bench.limiter.failing
    bench.limiter.close()
    assert (bench.primary.closed, bench.fallback.closed) == (1, 1)


def test_open_the_fallback_decides_and_the_primary_has_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.primary.fails = True
    for _ in range(10):
        bench.take()
        bench.limiter.debit(DEMANDS)
    assert (bench.primary.taken, bench.primary.settled) == (1, 0)
    assert (bench.fallback.taken, bench.fallback.settled) == (10, 10)
    assert (bench.limiter.failing, bench.limiter.errors) == (True, 1)
    assert len(caplog.records) == 1
    assert "away" in caplog.text


def test_pauses_grow_to_an_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.runtime.backoff.random.uniform", lambda low, high: high)
    bench = Bench()
    bench.primary.fails = True
    tried = []
    while bench.now < 60:
        before = bench.primary.taken
        bench.take()
        if bench.primary.taken > before:
            tried.append(bench.now)
        bench.now += 0.05
    pauses = [round(later - earlier, 1) for earlier, later in pairwise(tried)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    assert pauses[-1] == pytest.approx(5, abs=0.1)
    assert bench.limiter.errors == len(tried)
    assert len(caplog.records) == 1  # said once


def test_it_is_over_with_one_success(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.primary.fails = True
    bench.take()
    bench.primary.fails = False
    bench.now += 1
    bench.limiter.debit(DEMANDS)  # a charge may find out, too
    assert not bench.limiter.failing
    assert bench.fallback.settled == 0
    bench.take()
    assert bench.fallback.taken == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    bench.primary.fails = True  # the next time begins with a short pause again
    bench.take()
    bench.primary.fails = False
    bench.now += 0.3
    bench.take()
    assert not bench.limiter.failing


def test_closed_the_error_goes_out_and_a_charge_is_lost() -> None:
    bench = Bench(closed=True)
    bench.primary.fails = True
    for _ in range(3):
        with pytest.raises(LimiterError) as caught:
            bench.take()
        assert (caught.value.status, caught.value.retry_after) == (503, 2)
    assert bench.primary.taken == 1
    bench.limiter.debit(DEMANDS)
    bench.now += 1
    bench.limiter.debit(DEMANDS)
    assert (bench.primary.settled, bench.limiter.errors) == (1, 2)
    bench.primary.fails = False
    bench.now += 10
    assert bench.take().refused is None
    bench.limiter.close()


def test_only_one_tries_again_while_others_go_on() -> None:
    bench = Bench()
    bench.primary.fails = True
    bench.take()
    bench.now += 1
    bench.primary.held = Event()
    trial = gevent.spawn(bench.take)
    gevent.sleep(0)
    bench.take()  # does not wait
    assert (bench.primary.taken, bench.fallback.taken) == (2, 2)
    bench.primary.held.set()
    trial.get()
    assert bench.fallback.taken == 3


def test_late_responses_from_before_the_failure_decide_nothing() -> None:
    bench = Bench()
    bench.primary.held = Event()
    good = gevent.spawn(bench.take)  # asked while all was well
    gevent.sleep(0)
    bench.primary.fails = True
    bad = [gevent.spawn(bench.take) for _ in range(3)]
    gevent.sleep(0)
    held, bench.primary.held = bench.primary.held, None
    bench.take()
    assert bench.limiter.failing
    held.set()
    gevent.joinall([good, *bad], raise_error=True)
    assert bench.limiter.failing
    assert bench.limiter.errors == 4
    bench.now += 0.3  # three late failures have not made the pause longer
    bench.primary.fails = False
    bench.take()
    assert not bench.limiter.failing


def test_a_net_that_fails_says_so() -> None:
    bench = Bench()
    bench.primary.fails = bench.fallback.fails = True
    with pytest.raises(LimiterError):
        bench.take()
