"""Known grants: written behind, once, and usable as long as changes would have been seen."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from proxy.auth.known import KnownGrants
from proxy.core.errors import StoreError
from proxy.store.changes import Change
from proxy.store.knowntokens import Confirmed, Found, Learned, Outdated
from proxy.store.records import Grant
from tests.support.clock import Clock
from tests.support.grants import PROJECT, START, TOKEN
from tests.support.wait import wait_until

NOW = START.timestamp()
GRANT = Grant(TOKEN, PROJECT, "sk-upstream")


class Store:
    """The file of a node; ``error`` is raised by everything."""

    def __init__(self) -> None:
        self.rows: dict[str, Found] = {}
        self.updates: list[tuple[Sequence[Learned], Outdated, Confirmed | None]] = []
        self.confirmed_: Confirmed | None = None
        self.error: Exception | None = None
        self.closed = False

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def find(self, token_hash: str) -> Found | None:
        self._fail()
        return self.rows.get(token_hash)

    def confirmed(self) -> Confirmed | None:
        self._fail()
        return self.confirmed_

    def update(
        self, learned: Sequence[Learned], outdated: Outdated, confirmed: Confirmed | None
    ) -> None:
        self._fail()
        self.updates.append((learned, outdated, confirmed))
        self.confirmed_ = confirmed or self.confirmed_

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def make(store: Store, clock: Clock, grace: float = 100) -> KnownGrants:
    return KnownGrants(store, grace=grace, clock=clock)


def hashes(store: Store) -> list[list[str]]:
    return [[each.token_hash for each in learned] for learned, _, _ in store.updates]


class TestWriting:
    def test_a_token_is_written_once_until_it_changes(self, store: Store, clock: Clock) -> None:
        known = make(store, clock)
        known.seen(1, [])
        for _ in range(3):
            known.update("h", GRANT, NOW)
            known._flush()
        assert hashes(store) == [["h"]]
        changed = replace(TOKEN, updated_at=START + timedelta(seconds=1))
        known.update("h", replace(GRANT, token=changed), NOW)
        known._flush()
        assert hashes(store) == [["h"], ["h"]]

    def test_nothing_is_written_before_it_is_known_up_to_when_it_is_true(
        self, store: Store, clock: Clock
    ) -> None:
        known = make(store, clock)
        known.update("h", GRANT, NOW)
        known._flush()
        assert store.updates == []
        known.seen(7, [])
        known._flush()
        ((learned, _, confirmed),) = store.updates
        assert ([each.token_hash for each in learned], confirmed) == (["h"], Confirmed(7, NOW))

    def test_what_changed_goes_with_the_time_up_to_which_that_is_all(
        self, store: Store, clock: Clock
    ) -> None:
        known = make(store, clock)
        known.forget(["announced"])
        known.seen(8, [Change("found", 5)])
        known._flush()
        known.seen(9, None)
        known._flush()
        (_, first, _), (_, second, _) = store.updates
        assert (first.ids, first.versions) == ({"announced"}, {"found": 5})
        assert second == Outdated(everything=NOW)

    def test_the_time_is_written_seldom_and_when_looks_stop(
        self, store: Store, clock: Clock
    ) -> None:
        known = make(store, clock)
        for second in range(25):
            known.seen(second, [])
            known._flush()
            clock.now += 1
        assert [confirmed and confirmed.seen_until for _, _, confirmed in store.updates] == [
            0,
            10,
            20,
        ]
        clock.now += 2
        known._flush()
        assert store.confirmed_ == Confirmed(24, NOW + 24)

    def test_what_changed_is_not_lost_when_the_file_fails(
        self, store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        known = make(store, clock)
        known.seen(1, [Change("a", 1)])
        known.update("h", GRANT, NOW)
        store.error = StoreError()
        for _ in range(2):
            with pytest.raises(StoreError):
                known._flush()
        known.seen(2, [Change("b", 2)])
        store.error = None
        known.update("h", GRANT, NOW)
        known._flush()
        ((learned, outdated, _),) = store.updates
        assert outdated.versions == {"a": 1, "b": 2}
        assert [each.token_hash for each in learned] == ["h"]
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]

    def test_it_is_written_behind_and_at_the_end(self, store: Store, clock: Clock) -> None:
        known = make(store, clock)
        known.start()
        known.seen(1, [])
        known.update("h", GRANT, NOW)
        wait_until(lambda: hashes(store) == [["h"]])
        known.update("i", GRANT, NOW)
        known.close(2)
        assert hashes(store)[-1] == ["i"]
        assert store.closed

    def test_a_file_that_fails_does_not_hold_up_a_stop(self, store: Store, clock: Clock) -> None:
        known = make(store, clock)
        known.start()
        known.seen(1, [])
        store.error = StoreError()
        known.close(2)
        known.close(2)


class TestFinding:
    def test_as_long_as_changes_would_have_been_seen(self, store: Store, clock: Clock) -> None:
        store.rows["h"] = Found(GRANT, NOW - 1000)
        known = make(store, clock)
        known.seen(1, [])
        clock.now += 99
        found = known.find("h")
        assert found is not None
        assert (found.grant, round(found.seconds)) == (GRANT, 1)
        assert known.usable
        clock.now += 1
        assert known.find("h") is None
        assert not known.usable

    def test_after_a_restart_what_the_file_says_counts(self, store: Store, clock: Clock) -> None:
        store.rows["h"] = Found(GRANT, NOW - 1000)
        store.confirmed_ = Confirmed(5, NOW - 60)
        known = make(store, clock)
        assert not known.usable
        assert known.seen_until() == 5
        assert known.usable
        found = known.find("h")
        assert found is not None
        assert round(found.seconds) == 40

    def test_a_time_in_the_future_is_none(self, store: Store, clock: Clock) -> None:
        store.rows["h"] = Found(GRANT, NOW)
        store.confirmed_ = Confirmed(5, NOW + 3600)
        known = make(store, clock)
        known.seen_until()
        assert known.find("h") is None

    def test_what_changed_a_moment_ago_is_taken_out_first(self, store: Store, clock: Clock) -> None:
        known = make(store, clock)
        known.seen(1, [])
        known.forget(["token-1"])
        known.find("h")
        ((_, outdated, _),) = store.updates
        assert outdated.ids == {"token-1"}
        known.forget(["token-2"])
        store.error = StoreError()
        with pytest.raises(StoreError):
            known.find("h")

    def test_what_was_read_before_an_announced_change_is_not_written_after_it(
        self, store: Store, clock: Clock
    ) -> None:
        """Should the database be away from then on, nothing would take it out again."""
        known = make(store, clock)
        known.seen(1, [])
        other = replace(GRANT, token=replace(TOKEN, id="token-2"))
        known.update("waiting", GRANT, NOW)
        known.update("other", other, NOW)
        clock.now = NOW + 1
        known.forget(["token-1"])
        known.update("under way", GRANT, NOW + 0.9)
        known.find("h")
        assert hashes(store) == [["other"]]
        known.update("under way", GRANT, NOW + 1.1)
        known.find("h")
        assert hashes(store)[1:] == [["under way"]]

    def test_without_grace_nothing_is_kept(self, store: Store, clock: Clock) -> None:
        store.error = AssertionError()
        known = make(store, clock, grace=0)
        known.start()
        known.seen(1, [Change("a", 1)])
        known.forget(["b"])
        known.update("h", GRANT, NOW)
        assert known.find("h") is None
        assert known.seen_until() is None
        assert not known.usable
        known.close(1)
