"""Charges collected for a limiter that does I/O (`proxy/ratelimit/batching.py`)."""

from collections.abc import Sequence

import gevent
import pytest
from gevent.event import Event

from proxy.core.errors import LimiterError
from proxy.ratelimit import batching as charges_module
from proxy.ratelimit.batching import BatchedCharges
from proxy.ratelimit.limiter import Bucket, Charge, Decision
from tests.support.wait import wait_until

A, B = Bucket("a", 10), Bucket("b", 10)


class Limiter:
    """Responds when `free`."""

    def __init__(self) -> None:
        self.batches: list[dict[str, int]] = []
        self.error: Exception | None = None
        self.free = Event()
        self.free.set()

    def take(self, demands: Sequence[Charge]) -> Decision:
        raise AssertionError

    def debit(self, charges: Sequence[Charge]) -> None:
        self.free.wait()
        if self.error is not None:
            raise self.error
        self.batches.append({bucket.key: permits for bucket, permits in charges})

    def close(self) -> None:
        pass


def test_no_caller_waits_and_what_comes_meanwhile_is_one_batch() -> None:
    limiter = Limiter()
    limiter.free.clear()
    charges = BatchedCharges(limiter)
    charges.start()
    charges.debit([Charge(A, 1)])
    gevent.sleep(0)  # it is being charged
    for _ in range(100):
        charges.debit([Charge(A, 1), Charge(B, 2)])
    limiter.free.set()
    wait_until(lambda: len(limiter.batches) == 2)
    assert limiter.batches == [{"a": 1}, {"a": 100, "b": 200}]
    charges.close(1)


def test_a_busy_worker_makes_no_more_calls() -> None:
    limiter = Limiter()
    charges = BatchedCharges(limiter)
    debit = limiter.debit

    def settling(demands: Sequence[Charge]) -> None:
        # Another request ends while the limiter is asked.
        assert len(limiter.batches) < 9, "it never ends"
        charges.debit([Charge(A, 1)])
        debit(demands)

    limiter.debit = settling  # type: ignore[method-assign]
    charges.debit([Charge(A, 1)])
    charges._flush()
    assert limiter.batches == [{"a": 1}]
    charges._flush()
    assert limiter.batches == [{"a": 1}, {"a": 1}]


def test_at_the_stop_also_what_comes_meanwhile_is_charged() -> None:
    limiter = Limiter()
    charges = BatchedCharges(limiter)
    debit = limiter.debit

    def settling(demands: Sequence[Charge]) -> None:
        if not limiter.batches:
            charges.debit([Charge(B, 2)])
        debit(demands)

    limiter.debit = settling  # type: ignore[method-assign]
    charges.debit([Charge(A, 1)])
    charges.close(1)
    assert limiter.batches == [{"a": 1}, {"b": 2}]


def test_a_batch_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges_module, "_MAX_BATCH", 2)
    limiter = Limiter()
    charges = BatchedCharges(limiter)
    charges.debit([Charge(Bucket(str(number), 1), 1) for number in range(5)])
    charges.close(1)
    assert [len(batch) for batch in limiter.batches] == [2, 2, 1]


def test_a_failure_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter()
    limiter.error = LimiterError()
    charges = BatchedCharges(limiter)
    charges.start()
    charges.debit([Charge(A, 1)])
    wait_until(lambda: "1 charges were lost" in caplog.text)
    limiter.error = None
    charges.debit([Charge(B, 1)])
    wait_until(lambda: limiter.batches == [{"b": 1}])
    charges.close(1)


def test_the_rest_is_charged_at_the_stop_within_its_time() -> None:
    limiter = Limiter()
    charges = BatchedCharges(limiter)
    charges.debit([Charge(A, 1)])
    charges.close(1)
    assert limiter.batches == [{"a": 1}]
    charges.debit([Charge(A, 1)])
    limiter.free.clear()
    charges.close(0.01)
    assert len(limiter.batches) == 1
