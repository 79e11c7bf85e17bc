"""The poller of changes: what it finds, and that it never stops (`proxy/auth/change_poller.py`)."""

from collections.abc import Collection, Sequence

import gevent
import pytest

from proxy.auth.change_poller import _MAX_APPLIED, _OVERLAP_MICROSECONDS, ChangePoller
from proxy.core.errors import StoreError
from proxy.store.changes import Change, ChangeList
from tests.support.wait import wait_until

SECOND = 1_000_000


class Source:
    """The database: a clock and changes."""

    def __init__(self) -> None:
        self.clock = 10_000 * SECOND
        self.changes: list[Change] = []
        self.away = False
        self.truncated = False
        self.asked: list[int] = []

    def now(self) -> int:
        return self.clock

    def since(self, moment: int) -> ChangeList:
        self.asked.append(moment)
        if self.away:
            raise StoreError
        found = [change for change in self.changes if change.updated_at > moment]
        return ChangeList(self.clock, found, truncated=self.truncated)

    def change(self, identifier: str, at: int | None = None) -> None:
        self.changes = [change for change in self.changes if change.id != identifier]
        self.changes.append(Change(identifier, self.clock if at is None else at))


class World:
    def __init__(self, interval: float = 0.01) -> None:
        self.source = Source()
        self.forgotten: list[Collection[str] | None] = []
        self.revocation = ChangePoller(self.source, self.forgotten.append, interval=interval)
        self.revocation.poll()

    def poll(self, seconds: float = 1) -> list[Collection[str] | None]:
        """What is forgotten by a poll ``seconds`` later."""
        self.source.clock += int(seconds * SECOND)
        before = len(self.forgotten)
        self.revocation.poll()
        return self.forgotten[before:]


def test_a_change_is_forgotten_once() -> None:
    world = World()
    assert world.poll() == []
    world.source.change("a")
    assert world.poll() == [{"a"}]
    assert world.poll() == []
    world.source.change("b")
    world.source.change("a")
    assert world.poll() == [{"a", "b"}]
    assert world.poll() == []


def test_equal_times_and_late_commits_are_seen() -> None:
    world = World()
    at = world.source.clock + SECOND
    world.source.change("a", at)
    assert world.poll() == [{"a"}]
    world.source.change("b", at)
    assert world.poll() == [{"b"}], "the same time as one that was seen"
    world.source.change("c", world.source.clock - 10 * SECOND)
    assert world.poll() == [{"c"}], "committed long after its time was taken"


def test_it_reaches_back_by_the_database_s_clock() -> None:
    world = World()
    world.poll()
    world.poll()
    first, second = world.source.asked
    assert second - first == SECOND
    assert world.source.clock - SECOND - second == _OVERLAP_MICROSECONDS


def test_too_much_at_once_forgets_everything() -> None:
    world = World()
    world.source.truncated = True
    assert world.poll() == [None]


def test_what_was_missed_while_away_is_asked_for() -> None:
    world = World()
    world.source.away = True
    for _ in range(30):
        with pytest.raises(StoreError):
            world.poll(60)
    world.source.change("a", world.source.clock - 900 * SECOND)
    world.source.away = False
    assert world.poll() == [{"a"}]


def test_the_lag_is_measured() -> None:
    world = World()
    assert world.revocation.lag is None
    world.source.change("a")
    world.poll(0.75)
    assert world.revocation.lag == 0.75


def test_memory_is_bounded_by_the_overlap() -> None:
    world = World()
    for number in range(100):
        world.source.change(f"token-{number}")
        world.poll(1)
    assert len(world.revocation._known) <= _OVERLAP_MICROSECONDS // SECOND + 2


def test_it_goes_on_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def defect(ids: Collection[str] | None) -> None:
        raise ZeroDivisionError

    world.revocation._forget = defect
    world.source.change("a", world.source.clock + 1)
    world.revocation.start()
    wait_until(lambda: len(world.source.asked) > 3)
    world.source.away = True
    wait_until(lambda: "are not seen" in caplog.text)
    world.source.away = False
    seen = len(world.source.asked)
    wait_until(lambda: len(world.source.asked) > seen + 2)
    world.revocation.close()
    world.revocation.close()
    seen = len(world.source.asked)
    gevent.sleep(0.05)
    assert len(world.source.asked) == seen


def test_it_knows_since_when_it_is_blind() -> None:
    world = World()
    assert world.revocation.polled_at is None
    world.revocation.start()
    wait_until(lambda: world.revocation.polled_at is not None)
    world.source.away = True
    asked = len(world.source.asked)
    wait_until(lambda: len(world.source.asked) > asked)
    polled_at = world.revocation.polled_at
    asked = len(world.source.asked)
    wait_until(lambda: len(world.source.asked) > asked)
    assert world.revocation.polled_at == polled_at
    world.source.away = False
    wait_until(lambda: world.revocation.polled_at != polled_at)
    world.revocation.close()


def test_what_is_announced_is_felt_before_it_is_found() -> None:
    world = World()
    world.revocation.announced(["a"])
    assert world.forgotten == [["a"]]
    world.source.change("a")
    gevent.sleep(0.05)
    assert world.poll(0.75) == [{"a"}], (
        "found all the same: the announcement may have come too soon"
    )
    assert world.revocation.lag is not None
    assert world.revocation.lag <= 0.7, "it was felt before it was found"
    world.source.change("a", world.source.clock + 1)
    world.poll(0.75)
    assert world.revocation.lag == pytest.approx(0.75, abs=0.001), "this one was not announced"


def test_what_is_announced_and_never_found_is_bounded() -> None:
    world = World()
    for number in range(300):
        world.revocation.announced([f"{number}-{other}" for other in range(100)])
    assert len(world.revocation._applied) <= _MAX_APPLIED + 100


@pytest.mark.parametrize("how", ["heard", "listens"])
def test_it_does_not_wait_for_its_time_when_there_is_news(how: str) -> None:
    world = World(interval=600)
    world.revocation.start()
    wait_until(lambda: len(world.source.asked) == 1)
    assert world.revocation.listening is None
    world.source.change("a", world.source.clock + 1)
    if how == "heard":
        for _ in range(100):
            world.revocation.on_message(["b"])
            gevent.sleep(0.002)
    else:
        world.revocation.set_subscribed(True)
    wait_until(lambda: {"a"} in world.forgotten)
    assert len(world.source.asked) < 50, "however much is announced"
    assert world.revocation.listening is (None if how == "heard" else True)
    world.revocation.close()


class Kept:
    """What is kept over restarts."""

    def __init__(self, until: int | None) -> None:
        self.until = until
        self.given: list[tuple[int, list[str] | None]] = []
        self.announced: list[list[str]] = []

    def seen_until(self) -> int | None:
        return self.until

    def seen(self, seen_until: int, changes: Sequence[Change] | None) -> None:
        ids = None if changes is None else [change.id for change in changes]
        self.given.append((seen_until // SECOND, ids))

    def forget(self, ids: Collection[str]) -> None:
        self.announced.append(sorted(ids))


def keeping(until: int | None) -> tuple[World, Kept]:
    kept, world = Kept(until), World()
    world.revocation = ChangePoller(
        world.source,
        world.forgotten.append,
        interval=0.01,
        known=kept,  # type: ignore[arg-type]
    )
    return world, kept


class TestWhatIsKept:
    def test_is_given_each_change_once_and_up_to_when_these_are_all(self) -> None:
        world, kept = keeping(None)
        world.poll(0)
        world.source.change("a")
        world.poll(), world.poll()
        world.source.truncated = True
        world.poll()
        assert kept.given == [(10_000, []), (10_001, ["a"]), (10_002, []), (10_003, None)]

    def test_changes_from_before_the_start_are_read(self) -> None:
        world, kept = keeping(9_000 * SECOND)
        world.source.change("long ago", at=8_000 * SECOND)
        world.source.change("a", at=9_500 * SECOND)
        assert world.poll(0) == [{"a"}]
        assert world.source.asked == [9_000 * SECOND - _OVERLAP_MICROSECONDS]
        assert kept.given == [(10_000, ["a"])]
        assert world.revocation.lag is None, "no request was there to feel it"

    def test_a_database_that_is_away_confirms_nothing(self) -> None:
        world, kept = keeping(9_000 * SECOND)
        world.source.away = True
        for _ in range(2):
            with pytest.raises(StoreError):
                world.poll()
        assert kept.given == []
        world.source.away = False
        world.source.change("a", at=9_500 * SECOND)
        assert world.poll() == [{"a"}]

    def test_gets_announcements_at_once(self) -> None:
        world, kept = keeping(None)
        world.revocation.announced(["a"])
        world.revocation.on_message(["b"])
        assert kept.announced == [["a"], ["b"]]


def test_a_database_that_does_not_respond_is_reported_once() -> None:
    source, failures = Source(), list[int]()
    revocation = ChangePoller(
        source, lambda ids: None, interval=0.05, failed=lambda: failures.append(len(source.asked))
    )
    revocation.poll()
    source.away = True
    revocation.start()
    try:
        wait_until(lambda: len(source.asked) >= 3)
        assert len(failures) == 1
    finally:
        revocation.close()
