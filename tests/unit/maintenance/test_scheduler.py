"""Runs of the maintenance scheduler: the lease, their length, and failures."""

import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from proxy.core.errors import StoreError
from proxy.maintenance import scheduler
from proxy.maintenance.scheduler import BATCH, NAME, MaintenanceScheduler
from tests.support.wait import wait_until


class Lease:
    """A lease that is free, held, or unknown because the store fails."""

    def __init__(self) -> None:
        self.holder: str | None = None
        self.error: Exception | None = None
        self.taken = 0

    def take(self, name: str, holder: str, seconds: float) -> bool:
        assert name == NAME
        if self.error is not None:
            raise self.error
        self.taken += 1
        self.holder = self.holder or holder
        return self.holder == holder

    def release(self, name: str, holder: str) -> None:
        if self.error is not None:
            raise self.error
        assert self.holder == holder
        self.holder = None


class Table:
    """A number of rows to process; records the sizes of the batches."""

    def __init__(self, rows: int, log: list[str] | None = None, name: str = "") -> None:
        self.left = rows
        self.batches: list[int] = []
        self._log, self._name = log, name

    def __call__(self, most: int) -> int:
        done = min(most, self.left)
        self.left -= done
        self.batches.append(done)
        if self._log is not None:
            self._log.append(self._name)
        return done


class Clock:
    """A clock that moves by sleeps and by assignment."""

    now = 0.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scheduler.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(scheduler.gevent, "sleep", self.sleep)
        self.pauses = 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_batches_run_until_no_rows_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    table = Table(2 * BATCH + 7)
    scheduler = MaintenanceScheduler(Lease(), {"tokens": table})
    assert scheduler.run_once() == {"tokens": 2 * BATCH + 7}
    assert table.batches == [BATCH, BATCH, 7]
    assert clock.pauses == 2, "other writers have the database between two batches"
    assert scheduler.run_once() == {}
    assert scheduler.rows == {"tokens": 2 * BATCH + 7}


def test_tasks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    log: list[str] = []
    tables = {name: Table(rows, log, name) for name, rows in (("a", 3 * BATCH), ("b", BATCH + 1))}
    MaintenanceScheduler(Lease(), tables).run_once()
    assert log == ["a", "b", "a", "b", "a", "a"]


def test_a_run_ends_in_time_and_the_next_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    table = Table(10**9)
    scheduler = MaintenanceScheduler(Lease(), {"tokens": table}, lease_seconds=10)
    done = scheduler.run_once()["tokens"]
    assert 5 <= clock.now < 6, "half of the lease"
    assert scheduler.run_once()["tokens"] == done


def test_a_process_that_was_suspended_does_not_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    batches = []

    def stopped(most: int) -> int:
        batches.append(most)
        clock.now += 1000  # another worker has the lease by now
        return most

    MaintenanceScheduler(Lease(), {"tokens": stopped}).run_once()
    assert len(batches) == 1


def test_no_task_runs_without_the_lease() -> None:
    lease, table = Lease(), Table(5)
    lease.holder = "another"
    assert MaintenanceScheduler(lease, {"tokens": table}).run_once() == {}
    assert table.batches == []
    lease.holder = None
    assert MaintenanceScheduler(lease, {"tokens": table}).run_once() == {"tokens": 5}


def test_an_unreachable_store_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lease = Lease()
    scheduler = MaintenanceScheduler(lease, {"tokens": Table(1)})
    lease.error = StoreError()
    assert [scheduler.run_once(), scheduler.run_once()] == [{}, {}]
    assert len(lines(caplog)) == 1
    lease.error = None
    assert scheduler.run_once() == {"tokens": 1}
    assert lines(caplog)[1:] == ["housekeeping: lease: works again", "housekeeping: rows: tokens 1"]


@pytest.mark.parametrize("error", [StoreError(), ValueError("a defect")])
def test_a_failing_task_does_not_block_the_others(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(most: int) -> int:
        raise error

    tasks: dict[str, Callable[[int], int]] = {"audit": fail, "usage": Table(3)}
    scheduler = MaintenanceScheduler(Lease(), tasks)
    assert scheduler.run_once() == {"usage": 3}
    scheduler.run_once()
    assert len([line for line in lines(caplog) if "audit" in line]) == 1


def test_a_run_without_rows_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    MaintenanceScheduler(Lease(), {"tokens": Table(0)}).run_once()
    assert lines(caplog) == []


def test_runs_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Lease()
    scheduler = MaintenanceScheduler(lease, {"tokens": Table(0)}, interval=0.01, first=0.01)
    scheduler.start()
    wait_until(lambda: lease.taken > 3)
    scheduler.close(1)
    assert lease.holder is None
    taken = lease.taken
    gevent.sleep(0.05)
    assert lease.taken == taken
    scheduler.close(1)


def test_a_stop_within_a_batch_does_not_wait_for_it() -> None:
    rolled_back = []

    def slow(most: int) -> int:
        try:
            gevent.sleep(3600)
        except BaseException:
            rolled_back.append(most)
            raise
        return 0

    lease = Lease()
    scheduler = MaintenanceScheduler(lease, {"tokens": slow}, first=0.0)
    scheduler.start()
    wait_until(lambda: lease.holder is not None)
    gevent.sleep(0)
    scheduler.close(1)
    assert rolled_back == [BATCH]
    assert lease.holder is None


def test_a_hanging_store_does_not_block_a_stop() -> None:
    class Hanging(Lease):
        def release(self, name: str, holder: str) -> Any:
            gevent.sleep(3600)

    lease = Hanging()
    scheduler = MaintenanceScheduler(lease, {"tokens": Table(0)}, first=0.0)
    scheduler.start()
    wait_until(lambda: lease.taken > 0)
    with gevent.Timeout(20):
        scheduler.close(0.05)


def test_close_without_the_lease_releases_nothing() -> None:
    lease = Lease()
    lease.holder = "another"
    scheduler = MaintenanceScheduler(lease, {}, first=0.0)
    scheduler.close(1)
    scheduler.start()
    wait_until(lambda: lease.taken > 0)
    scheduler.close(1)
    assert lease.holder == "another"
