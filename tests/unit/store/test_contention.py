"""Transactions that run again (``proxy/store/contention.py``)."""

import pytest

from proxy.core.errors import StoreError
from proxy.store import contention
from proxy.store.contention import persistently
from proxy.store.dialects import Conflict, Deadlock


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(contention.time, "sleep", pauses.append)
    return pauses


def test_a_lost_transaction_runs_again(pauses: list[float]) -> None:
    errors = iter([Deadlock(), Conflict()])

    def call() -> int:
        for error in errors:
            raise error
        return 7

    assert persistently(call) == 7
    assert len(pauses) == 2
    assert all(0 <= pause <= 0.02 * 2 ** (number + 1) for number, pause in enumerate(pauses))


def test_attempts_are_limited_and_other_errors_propagate(pauses: list[float]) -> None:
    calls = []

    def lose() -> None:
        calls.append(1)
        raise Deadlock

    with pytest.raises(Deadlock):
        persistently(lose)
    assert len(calls) == 6

    def fail() -> None:
        raise StoreError

    with pytest.raises(StoreError):
        persistently(fail)
    assert len(pauses) == 5
