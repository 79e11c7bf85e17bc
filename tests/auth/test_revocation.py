"""What a worker learns from the changes, and that it never stops asking."""

from collections.abc import Collection

import gevent
import pytest

from proxy.auth.revocation import _MOST_FELT, _OVERLAP, Revocation
from proxy.errors import StoreError
from proxy.store.changes import Change, ChangeList
from tests.waiting import wait_until

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
        self.revocation = Revocation(self.source, self.forgotten.append, interval=interval)
        self.revocation.look()

    def look(self, seconds: float = 1) -> list[Collection[str] | None]:
        """What is forgotten by a question ``seconds`` later."""
        self.source.clock += int(seconds * SECOND)
        before = len(self.forgotten)
        self.revocation.look()
        return self.forgotten[before:]


def test_a_change_is_forgotten_once() -> None:
    world = World()
    assert world.look() == []
    world.source.change("a")
    assert world.look() == [{"a"}]
    assert world.look() == []
    world.source.change("b")
    world.source.change("a")
    assert world.look() == [{"a", "b"}]
    assert world.look() == []


def test_equal_times_and_late_commits_are_seen() -> None:
    world = World()
    at = world.source.clock + SECOND
    world.source.change("a", at)
    assert world.look() == [{"a"}]
    world.source.change("b", at)
    assert world.look() == [{"b"}], "the same time as one that was seen"
    world.source.change("c", world.source.clock - 10 * SECOND)
    assert world.look() == [{"c"}], "committed long after its time was taken"


def test_it_reaches_back_by_the_database_s_clock() -> None:
    world = World()
    world.look()
    world.look()
    first, second = world.source.asked
    assert second - first == SECOND
    assert world.source.clock - SECOND - second == _OVERLAP


def test_too_much_at_once_forgets_everything() -> None:
    world = World()
    world.source.truncated = True
    assert world.look() == [None]


def test_what_was_missed_while_away_is_asked_for() -> None:
    world = World()
    world.source.away = True
    for _ in range(30):
        with pytest.raises(StoreError):
            world.look(60)
    world.source.change("a", world.source.clock - 900 * SECOND)
    world.source.away = False
    assert world.look() == [{"a"}]


def test_the_lag_is_measured() -> None:
    world = World()
    assert world.revocation.lag is None
    world.source.change("a")
    world.look(0.75)
    assert world.revocation.lag == 0.75


def test_memory_is_bounded_by_the_overlap() -> None:
    world = World()
    for number in range(100):
        world.source.change(f"token-{number}")
        world.look(1)
    assert len(world.revocation._known) <= _OVERLAP // SECOND + 2


def test_it_goes_on_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def defect(ids: Collection[str] | None) -> None:
        raise ZeroDivisionError

    world.revocation._forget = defect
    world.source.change("a", world.source.clock + 1)
    world.revocation.start()
    wait_until(lambda: len(world.source.asked) > 3)
    world.source.away = True
    wait_until(lambda: "cannot be seen" in caplog.text)
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
    assert world.revocation.looked_at is None
    world.revocation.start()
    wait_until(lambda: world.revocation.looked_at is not None)
    world.source.away = True
    asked = len(world.source.asked)
    wait_until(lambda: len(world.source.asked) > asked)
    looked_at = world.revocation.looked_at
    asked = len(world.source.asked)
    wait_until(lambda: len(world.source.asked) > asked)
    assert world.revocation.looked_at == looked_at
    world.source.away = False
    wait_until(lambda: world.revocation.looked_at != looked_at)
    world.revocation.close()


def test_what_is_announced_is_felt_before_it_is_found() -> None:
    world = World()
    world.revocation.announced(["a"])
    assert world.forgotten == [["a"]]
    world.source.change("a")
    gevent.sleep(0.05)
    assert world.look(0.75) == [{"a"}], (
        "found all the same: the announcement may have come too soon"
    )
    assert world.revocation.lag is not None
    assert world.revocation.lag <= 0.7, "it was felt before it was found"
    world.source.change("a", world.source.clock + 1)
    world.look(0.75)
    assert world.revocation.lag == pytest.approx(0.75, abs=0.001), "this one was not announced"


def test_what_is_announced_and_never_found_is_bounded() -> None:
    world = World()
    for number in range(300):
        world.revocation.announced([f"{number}-{other}" for other in range(100)])
    assert len(world.revocation._felt) <= _MOST_FELT + 100


@pytest.mark.parametrize("how", ["heard", "listens"])
def test_it_does_not_wait_for_its_time_when_there_is_news(how: str) -> None:
    world = World(interval=600)
    world.revocation.start()
    wait_until(lambda: len(world.source.asked) == 1)
    assert world.revocation.listening is None
    world.source.change("a", world.source.clock + 1)
    if how == "heard":
        for _ in range(100):
            world.revocation.heard(["b"])
            gevent.sleep(0.002)
    else:
        world.revocation.listens(True)
    wait_until(lambda: {"a"} in world.forgotten)
    assert len(world.source.asked) < 50, "however much is announced"
    assert world.revocation.listening is (None if how == "heard" else True)
    world.revocation.close()
