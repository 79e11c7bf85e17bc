"""The maintenance of the store, and its leases, on every database."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest

from proxy.crypto.tokens import new_token_id
from proxy.store.changes import Changes
from proxy.store.database import Database
from proxy.store.leases import TaskLeases
from proxy.store.records import AccessToken
from proxy.store.tokens import ExpiredTokens
from proxy.store.usage import UsageLedger
from tests.support.stored_records import LATER, Store
from tests.support.wait import wait_until

PAST = datetime.now(UTC) - timedelta(days=2)
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
#: Far more than a batch; what reads all of them is seen.
MANY = 20_000


@pytest.fixture
def store(migrated_url: str) -> Iterator[Store]:
    store = Store(migrated_url)
    yield store
    store.database.close()


class TestTaskLeases:
    def test_one_holder_at_a_time(self, store: Store) -> None:
        leases = TaskLeases(store.database)
        assert leases.take("a", "one", 60)
        assert not leases.take("a", "two", 60)
        assert leases.take("a", "one", 60), "its holder renews it"
        assert leases.take("b", "two", 60), "each task has a lease of its own"
        leases.release("a", "two")
        assert not leases.take("a", "two", 60), "only the holder frees a lease"
        leases.release("a", "one")
        assert leases.take("a", "two", 60)
        assert not leases.take("a", "one", 60)

    def test_the_lease_of_a_dead_holder_expires(self, store: Store) -> None:
        leases = TaskLeases(store.database)
        assert leases.take("a", "dead", 0.3)
        assert not leases.take("a", "two", 60)
        wait_until(lambda: leases.take("a", "two", 60))
        assert not leases.take("a", "dead", 60)

    def test_a_lease_from_before_the_clock_went_back_is_free(self, store: Store) -> None:
        leases = TaskLeases(store.database)
        assert leases.take("a", "dead", 60)
        sql = "UPDATE leases SET held_until = held_until + ?"
        for hours, free in ((0, False), (1, True)):
            store.database.run(lambda s, n=hours: s.execute(sql, (n * 3_600_000_000,)))
            assert leases.take("a", "two", 60) == free

    def test_one_of_many_takers_at_once_gets_it(self, store: Store) -> None:
        leases = TaskLeases(store.database)
        for free in range(5):
            jobs = [gevent.spawn(leases.take, "a", f"{free}-{n}", 60) for n in range(8)]
            gevent.joinall(jobs, raise_error=True)
            (winner,) = [n for n, job in enumerate(jobs) if job.value]
            leases.release("a", f"{free}-{winner}")

    def test_a_renewed_lease_does_not_expire(self, store: Store) -> None:
        leases = TaskLeases(store.database)
        for _ in range(5):
            assert leases.take("a", "one", 1)
            gevent.sleep(0.3)
            assert not leases.take("a", "two", 1)


class TestExpiredTokens:
    def test_expired_tokens_are_deactivated_in_batches(self, store: Store) -> None:
        project = store.project()
        alive = store.token(project)
        old = [store.token(project, expires_at=PAST + timedelta(hours=n)) for n in (2, 0, 1)]
        revoked = store.tokens.revoke(store.token(project, expires_at=PAST).id)
        expired = ExpiredTokens(store.database)
        assert [expired.deactivate(2) for _ in range(3)] == [2, 1, 0]
        after = [store.tokens.get(token.id) for token in old]
        assert [(t.is_active, t.revoked_at) for t in after] == [(False, None)] * 3
        assert store.tokens.get(alive.id) == alive
        assert store.tokens.get(revoked.id) == revoked

    def test_tokens_that_expired_first_are_deactivated_first(self, store: Store) -> None:
        project = store.project()
        late, early = (store.token(project, expires_at=PAST + timedelta(hours=n)) for n in (2, 0))
        ExpiredTokens(store.database).deactivate(1)
        assert [store.tokens.get(t.id).is_active for t in (late, early)] == [True, False]

    def test_deactivation_is_no_change_for_workers(self, store: Store) -> None:
        store.token(store.project(), expires_at=PAST)
        changes = Changes(store.database)
        before = changes.since(0).changes
        assert ExpiredTokens(store.database).deactivate(10) == 1
        assert changes.since(0).changes == before

    def test_a_token_extended_at_the_same_time_stays_active(self, store: Store) -> None:
        token = store.token(store.project(), expires_at=PAST)
        real = store.database.run

        def extend_in_between(work: Callable[..., Any], **more: Any) -> Any:
            result = real(work, **more)
            if more.get("readonly"):
                store.database.run = real  # type: ignore[method-assign]
                store.tokens.update(token.id, {"expires_at": LATER})
            return result

        store.database.run = extend_in_between  # type: ignore[assignment,method-assign]
        assert ExpiredTokens(store.database).deactivate(10) == 0
        assert store.tokens.get(token.id).is_active

    def test_deactivating_and_counting_at_once_do_not_block_each_other(self, store: Store) -> None:
        project = store.project()
        tokens = [store.token(project, expires_at=PAST) for _ in range(20)]
        entries = [(token.id, 1, 0, 0, PAST) for token in tokens]
        jobs = [gevent.spawn(store.counters.add_counts, entries) for _ in range(5)]
        jobs += [gevent.spawn(ExpiredTokens(store.database).deactivate, 4) for _ in range(5)]
        gevent.joinall(jobs, raise_error=True)
        ExpiredTokens(store.database).deactivate(20)
        after = [store.tokens.get(token.id) for token in tokens]
        assert {(t.is_active, t.request_count) for t in after} == {(False, 5)}


def ran_out(store: Store) -> AccessToken:
    token = store.token(store.project(), expires_at=PAST)
    assert ExpiredTokens(store.database).deactivate(10) == 1
    return token


class TestLifeAfterExpiry:
    def test_an_extension_revives_an_expired_token(self, store: Store) -> None:
        token = ran_out(store)
        assert store.tokens.update(token.id, {"expires_at": LATER}).is_active
        assert ExpiredTokens(store.database).deactivate(10) == 0

    def test_an_extension_into_the_past_does_not_revive(self, store: Store) -> None:
        token = ran_out(store)
        changed = store.tokens.update(token.id, {"expires_at": PAST + timedelta(hours=1)})
        assert not changed.is_active
        assert not store.tokens.update(token.id, {"name": "x"}).is_active

    def test_an_extension_does_not_revive_a_revoked_token(self, store: Store) -> None:
        token = ran_out(store)
        revoked = store.tokens.revoke(token.id)
        assert revoked.revoked_at is not None
        changed = store.tokens.update(token.id, {"expires_at": LATER})
        assert (changed.is_active, changed.revoked_at) == (False, revoked.revoked_at)

    def test_an_extension_does_not_revive_tokens_revoked_with_their_project(
        self, store: Store
    ) -> None:
        token = ran_out(store)
        done = store.tokens.revoke_all(token.project_id)
        assert (done.revoked_count, done.already_revoked_count, done.total_tokens) == (1, 0, 1)
        assert not store.tokens.update(token.id, {"expires_at": LATER}).is_active

    def test_an_explicit_activity_counts(self, store: Store) -> None:
        token = ran_out(store)
        assert store.tokens.update(token.id, {"is_active": True}).is_active
        assert ExpiredTokens(store.database).deactivate(10) == 1
        changed = store.tokens.update(token.id, {"expires_at": LATER, "is_active": False})
        assert (changed.is_active, changed.revoked_at is None) == (False, False)


_ROWS_OF_A_BATCH = 500


def hours(store: Store, count: int, per_hour: int = 1) -> UsageLedger:
    """Rows of the last ``count`` hours."""
    ledger = UsageLedger(store.database)
    entries = [
        (HOUR - timedelta(hours=n), "p", f"t{m}", "m", 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0)
        for n in range(count)
        for m in range(per_hour)
    ]
    # In several transactions: thousands of rows in one may reach its deadline on a busy machine.
    before = None
    for number, start in enumerate(range(0, len(entries), _ROWS_OF_A_BATCH), 1):
        assert ledger.apply("w", before, (1, number), entries[start : start + _ROWS_OF_A_BATCH])
        before = (1, number)
    return ledger


def left(store: Store) -> list[Any]:
    sql = "SELECT hour, token_id FROM usage_hourly ORDER BY hour, token_id"
    return [tuple(row) for row in store.database.run(lambda session: session.all(sql))]


class TestUsageRetention:
    def test_the_oldest_hours_are_deleted_first_in_batches(self, store: Store) -> None:
        ledger = hours(store, 5, per_hour=3)
        before = left(store)
        edge = HOUR - timedelta(hours=2)
        assert ledger.prune(edge, 4) == 4
        assert left(store) == before[4:]
        assert [ledger.prune(edge, 4) for _ in range(2)] == [2, 0]
        assert left(store) == before[6:]

    def test_an_hour_is_deleted_when_all_of_it_is_over(self, store: Store) -> None:
        ledger = hours(store, 2)
        assert ledger.prune(HOUR - timedelta(microseconds=1), 10) == 0
        assert ledger.prune(HOUR, 10) == 1
        assert ledger.prune(HOUR + timedelta(minutes=59), 10) == 0

    def test_the_position_of_a_source_stays(self, store: Store) -> None:
        ledger = hours(store, 2)
        ledger.prune(HOUR + timedelta(hours=1), 10)
        assert left(store) == []
        assert ledger.position("w") == (1, 1)


class Statements:
    """Executed statements, with their parameters."""

    def __init__(self, database: Database) -> None:
        self.seen: list[tuple[str, Sequence[Any]]] = []
        real = database.run

        def run(work: Callable[[Any], Any], **more: Any) -> Any:
            def watched(session: Any) -> Any:
                execute = session.execute

                def remember(sql: str, params: Sequence[Any] = ()) -> Any:
                    self.seen.append((sql, params))
                    return execute(sql, params)

                session.execute = remember
                return work(session)

            return real(watched, **more)

        database.run = run  # type: ignore[method-assign]


def plans(store: Store, work: Callable[[], Any]) -> list[str]:
    """The database's plan of each statement that changes or selects rows."""
    if store.database.dialect.name == "postgresql":
        # The database does so by itself when a table has changed much.
        store.database.run(lambda session: session.execute("ANALYZE"))
    statements = Statements(store.database)
    work()
    explain = {
        "sqlite": "EXPLAIN QUERY PLAN ",
        "mysql": "EXPLAIN FORMAT=TRADITIONAL ",
        "postgresql": "EXPLAIN ",
    }[store.database.dialect.name]
    found = []
    for sql, params in list(statements.seen):
        if re.match("SELECT id|UPDATE|DELETE", sql):
            rows = store.database.run(lambda s, q=(explain + sql, params): s.all(*q))  # type: ignore[misc]
            found.append("\n".join("|".join(map(str, row)) for row in rows))
    return found


#: A scan of a whole table, in each one's words.
SCAN = re.compile(r"\bSCAN (tokens|usage_hourly)\b|\|(ALL|index)\||Seq Scan")


def assert_no_scan(found: list[str]) -> None:
    assert found
    for plan in found:
        assert not SCAN.search(plan), plan


class TestPlans:
    """Thousands of rows are inserted, and no batch reads all of them."""

    def test_tokens(self, store: Store) -> None:
        project = store.project()
        fill_tokens(store, project.id)
        expired = ExpiredTokens(store.database)
        found = plans(store, lambda: expired.deactivate(500))
        assert len(found) == 2
        assert_no_scan(found)

    def test_usage(self, store: Store) -> None:
        ledger = hours(store, 200, per_hour=MANY // 200)
        edge = HOUR - timedelta(hours=50)
        found = plans(store, lambda: ledger.prune(edge, 500))
        assert_no_scan(found)

    def test_a_full_scan_is_detected(self, store: Store) -> None:
        hours(store, 10, per_hour=20)
        explained = plans(
            store,
            lambda: store.database.run(
                lambda s: s.execute("DELETE FROM usage_hourly WHERE requests = ?", (1,))
            ),
        )
        with pytest.raises(AssertionError):
            assert_no_scan(explained)


def fill_tokens(store: Store, project_id: str) -> None:
    past, future = (int(moment.timestamp() * 1e6) for moment in (PAST, LATER))
    columns = (
        "id, token_hash, token_mask, project_id, expires_at, is_active, created_at, updated_at"
    )
    for start in range(0, MANY, 100):
        values: list[Any] = []
        for n in range(start, start + 100):
            expires = past + n if n % 2 else future + n
            values += [new_token_id(), f"{n:064x}", "m", project_id, expires, 1, 0, n]
        places = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * 100)
        sql = f"INSERT INTO tokens ({columns}) VALUES {places}"
        store.database.run(lambda s, q=(sql, values): s.execute(*q))  # type: ignore[misc]
