"""The periodic task (``proxy/runtime/periodic.py``)."""

import logging
import math

import gevent
import pytest

from proxy.runtime.periodic import PeriodicTask
from tests.support.wait import wait_until

_log = logging.getLogger(__name__)


class Runs:
    def __init__(self) -> None:
        self.count = 0
        self.failing = False
        self.seconds = 0.0
        self.ended = 0

    def __call__(self) -> None:
        self.count += 1
        if self.failing:
            raise ZeroDivisionError
        gevent.sleep(self.seconds)
        self.ended += 1


def task(runs: Runs, pause: float = 0.005, **options: object) -> PeriodicTask:
    return PeriodicTask(runs, lambda: pause, failure="runs fail", log=_log, **options)  # type: ignore[arg-type]


def test_it_runs_again_and_again_until_it_is_killed() -> None:
    runs = Runs()
    periodic = task(runs)
    periodic.start()
    wait_until(lambda: runs.count >= 3)
    periodic.kill()
    assert not periodic.started
    count = runs.count
    gevent.sleep(0.03)
    assert runs.count == count
    periodic.kill()


def test_the_first_pause_comes_before_the_first_run() -> None:
    runs = Runs()
    periodic = task(runs, pause=60)
    periodic.start()
    gevent.sleep(0.02)
    assert not runs.count
    periodic.kill()
    at_once = task(runs, pause=60, first_pause=lambda: 0.0)
    at_once.start()
    wait_until(lambda: runs.count == 1)
    at_once.kill()


def test_a_failure_is_logged_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    runs = Runs()
    runs.failing = True
    periodic = task(runs)
    periodic.start()
    wait_until(lambda: runs.count >= 2)
    runs.failing = False
    wait_until(lambda: runs.ended > 0)
    periodic.kill()
    assert "runs fail" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_waking_ends_a_pause_but_not_its_least_part() -> None:
    runs = Runs()
    periodic = task(runs, pause=60, first_pause=lambda: 0.0, min_pause=0.05)
    periodic.start()
    wait_until(lambda: runs.count == 1)
    for _ in range(10):
        periodic.wake()
    gevent.sleep(0.01)
    assert runs.count == 1
    wait_until(lambda: runs.count == 2)
    periodic.kill()


def test_finishing_waits_for_the_current_run() -> None:
    runs = Runs()
    runs.seconds = 0.05
    periodic = task(runs)
    periodic.finish()
    periodic = task(runs)
    periodic.start()
    assert periodic.started
    wait_until(lambda: runs.count == 1)
    periodic.finish()
    assert (runs.count, runs.ended) == (1, 1)
    periodic.finish()


def test_killing_interrupts_the_current_run() -> None:
    runs = Runs()
    runs.seconds = 60
    periodic = task(runs)
    periodic.start()
    wait_until(lambda: runs.count == 1)
    periodic.kill()
    assert not runs.ended


def test_an_endless_pause_lasts_until_it_is_woken() -> None:
    runs = Runs()
    periodic = task(runs, pause=math.inf)
    periodic.start()
    for count in (1, 2):
        gevent.sleep(0.02)
        assert runs.count == count - 1
        periodic.wake()
        wait_until(lambda count=count: runs.count == count)  # type: ignore[misc]
    periodic.kill()


def test_without_a_pause_it_ends_and_may_be_started_again() -> None:
    runs = Runs()
    periodic = PeriodicTask(
        runs, lambda: None, failure="runs fail", log=_log, first_pause=lambda: 0.01
    )
    for count in (1, 2):
        periodic.start()
        periodic.start()
        wait_until(lambda: not periodic.started)
        assert runs.count == count
    periodic.finish()
    periodic.kill()


def test_waking_does_not_cut_short_the_pause_after_a_failure() -> None:
    runs = Runs()
    runs.failing = True
    periodic = task(runs, pause=0.1, first_pause=lambda: 0.0)
    periodic.start()
    wait_until(lambda: runs.count == 1)
    periodic.wake()
    gevent.sleep(0.02)
    assert runs.count == 1
    wait_until(lambda: runs.count == 2)
    with gevent.Timeout(0.05):
        periodic.finish()
    assert runs.count == 2


def test_finishing_does_not_wait_for_the_least_pause() -> None:
    runs = Runs()
    periodic = task(runs, first_pause=lambda: 0.0, min_pause=60)
    periodic.start()
    wait_until(lambda: runs.count == 1)
    with gevent.Timeout(5):
        periodic.finish()
    assert runs.count == 1
