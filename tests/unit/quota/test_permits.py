"""Permits in blocks: never more than the limit, whatever happens in between."""

from collections.abc import Callable, Mapping
from datetime import datetime

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import StoreError
from proxy.quota import permits as leases_module
from proxy.quota.permits import PermitLeases
from proxy.store.counters import MAX_LEASED, ONE_BY_ONE
from tests.support.wait import wait_until


class Store:
    """The rule of the real one, in memory; can fail, be slow, or be slow after it has counted."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.counted = 0
        self.asked = 0
        self.away = False
        self.open = Event()
        self.open.set()

    def lease_permits(self, token_id: str, now: datetime) -> int:
        self.asked += 1
        if self.away:
            raise StoreError
        remaining = self.limit - self.counted
        block = min(MAX_LEASED, max(1, (remaining - ONE_BY_ONE) // 8)) if remaining > 0 else 0
        self.counted += block
        self.open.wait()
        return block

    def permits_left(self, token_id: str) -> int:
        self.asked += 1
        if self.away:
            raise StoreError
        self.open.wait()
        return self.limit - self.counted

    def return_permits(self, permits: Mapping[str, int]) -> None:
        if self.away:
            raise StoreError
        self.counted -= sum(permits.values())


class Uses:
    def __init__(self) -> None:
        self.touched = 0

    def touch(self, token_id: str) -> None:
        self.touched += 1


def make(store: Store) -> PermitLeases:
    return PermitLeases(store, Uses())


def twenty_at_once(store: Store, ask: Callable[[str], bool]) -> list[bool | None]:
    """Return what each of twenty gets that ask while the store takes its time."""
    store.open.clear()
    jobs = [gevent.spawn(ask, "t") for _ in range(20)]
    gevent.sleep(0)
    store.open.set()
    gevent.joinall(jobs, timeout=20)
    return [job.value for job in jobs]


def test_a_block_is_spent_without_asking() -> None:
    store = Store(10_000)
    leases = make(store)
    assert all(leases.take_permit("t") for _ in range(MAX_LEASED))
    assert store.asked == 1
    assert leases.take_permit("t")
    assert store.asked == 2


@pytest.mark.parametrize("limit", [0, 1, 5, 99, 100, 101, 150, 1000])
def test_exactly_the_limit(limit: int) -> None:
    store = Store(limit)
    leases = make(store)
    admitted = sum(leases.take_permit("t") for _ in range(limit + 20))
    assert admitted == limit == store.counted


def test_twenty_at_once_with_five_left() -> None:
    store = Store(5)
    leases = make(store)
    assert twenty_at_once(store, leases.take_permit).count(True) == 5


def test_looking_takes_nothing_and_asks_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(leases_module.time, "monotonic", lambda: now)
    store = Store(1)
    here, elsewhere = make(store), make(store)
    assert all(here.has_permit("t") for _ in range(5))
    assert (store.asked, store.counted, here.outstanding) == (1, 0, 0)
    assert elsewhere.take_permit("t"), "the last one is not held by who only looks"
    now += 0.99
    assert here.has_permit("t"), "a second old"
    now += 0.01
    asked = store.asked
    assert not any(here.has_permit("t") for _ in range(5))
    assert store.asked == asked + 1
    here.return_permits({"t"})  # its token changed
    store.limit = 2
    assert here.has_permit("t")


def test_looking_trusts_a_lease_and_what_taking_has_found() -> None:
    store = Store(1)
    leases = make(store)
    assert leases.take_permit("t")
    leases.put_back("t")
    asked = store.asked
    assert leases.has_permit("t")
    assert leases.take_permit("t")
    assert not leases.take_permit("t")
    assert not leases.has_permit("t")
    assert store.asked == asked + 1
    store.away = True
    with pytest.raises(StoreError):
        leases.has_permit("another")


def test_many_who_look_at_once_ask_once() -> None:
    store = Store(5)
    leases = make(store)
    assert twenty_at_once(store, leases.has_permit) == [True] * 20
    assert store.asked == 1


def test_what_is_leased_and_unspent_is_known() -> None:
    store = Store(1000)
    leases = make(store)
    assert leases.outstanding == 0
    assert leases.take_permit("t")
    before = leases.outstanding
    assert before > 0
    assert leases.take_permit("t")
    assert leases.outstanding == before - 1
    leases.return_permits(None)
    assert leases.outstanding == 0


def test_while_the_store_is_away_the_lease_lasts() -> None:
    store = Store(10_000)
    leases = make(store)
    leases.take_permit("t")
    store.away = True
    assert all(leases.take_permit("t") for _ in range(MAX_LEASED - 1))
    with pytest.raises(StoreError):
        leases.take_permit("t")
    store.away = False
    assert leases.take_permit("t")


def test_a_failure_reaches_all_that_wait_at_once() -> None:
    store = Store(10_000)
    leases = make(store)
    store.open.clear()

    def take() -> object:
        try:
            return leases.take_permit("t")
        except StoreError:
            return "away"

    first = gevent.spawn(take)
    gevent.sleep(0)
    waiting = [gevent.spawn(take) for _ in range(5)]
    gevent.sleep(0)
    first.kill()
    gevent.joinall(waiting, timeout=20)
    assert {job.value for job in waiting} == {"away"}
    assert store.asked == 1


def test_what_is_not_used_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(10_000)
    leases = make(store)
    leases.take_permit("t")
    leases.return_permits({"other"})
    assert store.counted == MAX_LEASED
    leases.return_permits({"t"})
    assert store.counted == 1
    leases.take_permit("t")
    leases.close(1)
    assert store.counted == 2
    monkeypatch.setattr(leases_module, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(leases_module, "_INTERVAL", 0.01)
    leases.take_permit("t")
    leases.start()
    wait_until(lambda: store.counted == 3)
    leases.close(1)


def test_a_return_that_fails_is_not_repeated() -> None:
    store = Store(10_000)
    leases = make(store)
    leases.take_permit("t")
    store.away = True
    leases.return_permits(None)
    store.away = False
    leases.return_permits(None)
    assert store.counted == MAX_LEASED, "counted as used: never more than the limit"


def test_a_defect_does_not_end_the_returning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases_module, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(leases_module, "_INTERVAL", 0.01)
    store = Store(10_000)
    leases = make(store)

    def defect(permits: Mapping[str, int]) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(store, "return_permits", defect)
        leases.take_permit("t")
        leases.start()
        wait_until(lambda: "could not be returned" in caplog.text)
    leases.take_permit("t")
    wait_until(lambda: store.counted == MAX_LEASED + 1)
    leases.close(1)


def test_what_was_not_needed_waits_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(2)
    leases = make(store)
    assert leases.take_permit("t")
    leases.put_back("t")
    assert (leases.outstanding, store.counted) == (1, 1)
    assert leases.take_permit("t")
    assert store.asked == 1
    leases.put_back("t")
    leases.return_permits(None)
    assert store.counted == 0


def test_what_is_used_up_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(1)
    leases = make(store)
    assert leases.take_permit("t")
    assert [leases.take_permit("t") for _ in range(5)] == [False] * 5
    assert store.asked == 2, "a flood of refused requests is no flood of queries"
    store.limit = 2  # which is a change
    leases.return_permits({"another"})
    assert not leases.take_permit("t")
    leases.return_permits({"t"})
    assert leases.take_permit("t")
    assert not leases.take_permit("t")
    leases.return_permits(None)
    assert not leases.take_permit("t")
    assert store.asked == 5
    monkeypatch.setattr(leases_module, "KNOWN_SECONDS", 0.0)
    leases.return_permits(None)
    assert [leases.take_permit("t"), leases.take_permit("t")] == [False, False]
    assert store.asked == 7, "and for a moment only"


def test_a_permit_that_is_put_back_is_not_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    leases = make(Store(1))
    assert leases.take_permit("t")
    assert not leases.take_permit("t")
    leases.put_back("t")
    assert leases.take_permit("t")


STEPS = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=3),
        st.sampled_from(
            ["take", "take", "take", "take many", "put back", "give back", "crash", "away", "back"]
        ),
    ),
    max_size=60,
)


@given(limit=st.integers(min_value=0, max_value=400), steps=STEPS)
def test_never_more_than_the_limit(limit: int, steps: list[tuple[int, str]]) -> None:
    """Four workers on one store, in any order, with crashes and outages in between."""
    store = Store(limit)
    workers = [make(store) for _ in range(4)]
    admitted = lost = 0
    for number, step in steps:
        worker = workers[number]
        if step == "away":
            store.away = True
        elif step == "back":
            store.away = False
        elif step == "crash":
            lost += sum(lease.left for lease in worker._leases.values())
            workers[number] = make(store)
        elif step == "put back":
            try:
                if worker.take_permit("t"):
                    worker.put_back("t")
            except StoreError:
                pass
        elif step == "give back":
            if store.away:
                lost += sum(lease.left for lease in worker._leases.values())
            worker.return_permits(None)
        else:
            for _ in range(30 if step == "take many" else 1):
                try:
                    admitted += worker.take_permit("t")
                except StoreError:
                    break
        assert admitted <= limit
    held = sum(lease.left for worker in workers for lease in worker._leases.values())
    assert admitted + held + lost == store.counted <= limit
