"""Single flight (``proxy/runtime/singleflight.py``)."""

import gevent
import pytest
from gevent.event import Event

from proxy.runtime.singleflight import SingleFlight


class Interrupted(Exception):
    pass


class Work:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.go = Event()
        self.error: Exception | None = None

    def __call__(self, key: str) -> int:
        self.calls.append(key)
        number = len(self.calls)
        self.go.wait()
        if self.error is not None:
            raise self.error
        return number


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def flights(work: Work) -> SingleFlight[int]:
    return SingleFlight(work, Interrupted)


def test_one_call_for_all_that_come_meanwhile(flights: SingleFlight[int], work: Work) -> None:
    jobs = [gevent.spawn(flights.do, "a") for _ in range(5)]
    other = gevent.spawn(flights.do, "b")
    gevent.sleep(0)
    work.go.set()
    gevent.joinall([*jobs, other], timeout=5)
    assert [job.value for job in jobs] == [1] * 5
    assert other.value == 2
    assert work.calls == ["a", "b"]
    assert flights.get("a") is None
    assert flights.do("a") == 3, "a later caller makes a new call"


def test_all_get_the_failure(flights: SingleFlight[int], work: Work) -> None:
    work.error = ZeroDivisionError()
    first = flights.spawn("a")
    assert flights.spawn("a") is first
    gevent.sleep(0)
    work.go.set()
    with pytest.raises(ZeroDivisionError):
        first.get(timeout=5)
    assert flights.get("a") is None


def test_a_killed_caller_does_not_end_the_others(flights: SingleFlight[int], work: Work) -> None:
    leader = gevent.spawn(flights.do, "a")
    gevent.sleep(0)
    waiting = flights.get("a")
    assert waiting is not None
    leader.kill()
    with pytest.raises(Interrupted):
        waiting.get(timeout=5)


def test_a_forgotten_flight_is_not_joined_and_leaves_the_newer_one(
    flights: SingleFlight[int], work: Work
) -> None:
    old = flights.spawn("a")
    gevent.sleep(0)
    flights.forget_all()
    new = flights.spawn("a")
    assert new is not old
    gevent.sleep(0)
    work.go.set()
    assert (old.get(timeout=5), new.get(timeout=5)) == (1, 2)
    assert work.calls == ["a", "a"]
