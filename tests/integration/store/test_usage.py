"""The ledger on every database: nodes add each line once, and sums are by groups."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest
from gevent.event import Event

from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import new_token_id
from proxy.store.database import Database, Session
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.tokens import Tokens
from proxy.store.usage import Entry, UsageLedger, UsageSums
from tests.support.wait import wait_until

HOUR = datetime(2026, 5, 20, 10, tzinfo=UTC)
NEXT = HOUR + timedelta(hours=1)
P1, P2 = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
T1, T2 = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"


def entry(
    hour: datetime = HOUR,
    project: str = P1,
    token: str = T1,
    model: str = "gpt-4",
    counts: tuple[int, int, int, int, int, int] = (1, 0, 9, 12, 4, 2),
    estimated: tuple[int, int] = (0, 0),
    saved: tuple[int, int, int] = (0, 0, 0),
) -> Entry:
    return (hour, project, token, model, *counts, *estimated, *saved)


class Books:
    def __init__(self, url: str) -> None:
        self.database = Database.from_url(url)
        Migrator(self.database).migrate()
        self.ledger = UsageLedger(self.database)

    def sums(self, *group_by: str, **more: Any) -> list[UsageSums]:
        more = {"start": HOUR, "end": HOUR + timedelta(days=1), "limit": 1000, **more}
        return self.ledger.sums(group_by=group_by or ("project",), **more)

    def rows(self) -> list[tuple[Any, ...]]:
        work = "SELECT * FROM usage_hourly ORDER BY hour, project_id, token_id, model"
        return self.database.run(lambda session: session.all(work), readonly=True)

    def sources(self) -> list[str]:
        work = "SELECT source FROM usage_positions ORDER BY source"
        return [row[0] for row in self.database.run(lambda session: session.all(work))]


@pytest.fixture
def books(migrated_url: str) -> Iterator[Books]:
    books = Books(migrated_url)
    yield books
    books.database.close()


def counts(sums: UsageSums) -> tuple[int, ...]:
    return (
        sums.requests,
        sums.errors,
        sums.prompt_tokens,
        sums.completion_tokens,
        sums.cached_tokens,
        sums.reasoning_tokens,
    )


class TestApply:
    def test_lines_are_added_and_the_position_moves(self, books: Books) -> None:
        assert books.ledger.position("w") is None
        assert books.ledger.apply("w", None, (1, 100), [entry()])
        assert books.ledger.position("w") == (1, 100)
        assert books.ledger.apply("w", (1, 100), (2, 50), [entry(), entry(model="m")])
        assert books.ledger.position("w") == (2, 50)
        assert [row[3:] for row in books.rows()] == [
            ("gpt-4", 2, 0, 18, 24, 8, 4, 0, 0, 0, 0, 0),
            ("m", 1, 0, 9, 12, 4, 2, 0, 0, 0, 0, 0),
        ]

    def test_estimates_have_their_own_sums(self, books: Books) -> None:
        estimated = entry(counts=(1, 0, 0, 0, 0, 0), estimated=(30, 40))
        books.ledger.apply("w", None, (1, 1), [entry(), estimated, estimated])
        (row,) = books.sums()
        assert counts(row) == (3, 0, 9, 12, 4, 2)
        assert (row.estimated_prompt_tokens, row.estimated_completion_tokens) == (60, 80)

    def test_what_the_cache_saved_has_its_own_sums(self, books: Books) -> None:
        hit = entry(counts=(1, 0, 0, 0, 0, 0), saved=(1, 9, 12))
        books.ledger.apply("w", None, (1, 1), [entry(), hit, hit])
        (row,) = books.sums()
        assert counts(row) == (3, 0, 9, 12, 4, 2)
        saved = (row.cache_hits, row.saved_prompt_tokens, row.saved_completion_tokens)
        assert saved == (2, 18, 24)

    @pytest.mark.parametrize("after", [None, (1, 99), (0, 100), (1, 200)])
    def test_an_outdated_position_adds_nothing(
        self, books: Books, after: tuple[int, int] | None
    ) -> None:
        assert books.ledger.apply("w", None, (1, 100), [entry()])
        before = books.rows()
        assert not books.ledger.apply("w", after, (1, 300), [entry(), entry(model="m")])
        assert books.rows() == before
        assert books.ledger.position("w") == (1, 100)

    def test_an_unknown_source_does_not_match_a_position(self, books: Books) -> None:
        assert not books.ledger.apply("w", (1, 100), (1, 200), [entry()])
        assert books.rows() == []
        assert books.sources() == []

    def test_sources_are_independent(self, books: Books) -> None:
        assert books.ledger.apply("a", None, (1, 100), [entry()])
        assert books.ledger.apply("b", None, (1, 100), [entry()])
        assert books.rows()[0][4] == 2

    def test_a_batch_may_have_a_row_twice(self, books: Books) -> None:
        books.ledger.apply("w", None, (1, 1), [entry(), entry(counts=(2, 1, 0, 0, 0, 0)), entry()])
        assert [row[4:] for row in books.rows()] == [(4, 1, 18, 24, 8, 4, 0, 0, 0, 0, 0)]

    def test_a_batch_without_entries_moves_the_position(self, books: Books) -> None:
        assert books.ledger.apply("w", None, (3, 0), [])
        assert books.ledger.position("w") == (3, 0)

    def test_many_rows_with_any_names(self, books: Books) -> None:
        names = [f"model-{number:04}" for number in range(500)]
        names += ["", "☃ 🦫", "x" * 255, "%s ? ' \" \\", "GPT-4", "gpt-4"]
        books.ledger.apply("w", None, (1, 1), [entry(model=name) for name in names])
        assert sorted(row[3] for row in books.rows()) == sorted(names)

    def test_sums_beyond_32_bits(self, books: Books) -> None:
        large = entry(counts=(1, 0, 2**31 - 1, 2**31 - 1, 0, 0))
        books.ledger.apply("w", None, (1, 1), [large] * 3)
        books.ledger.apply("w", (1, 1), (1, 2), [large] * 3)
        assert books.sums()[0].prompt_tokens == 6 * (2**31 - 1)

    def test_a_failure_leaves_the_position_unchanged(self, books: Books) -> None:
        books.ledger.apply("w", None, (1, 1), [entry()])
        with pytest.raises(Exception):  # noqa: B017, PT011 - a StoreError, or SQLite's own check
            books.ledger.apply("w", (1, 1), (1, 2), [entry(), entry(model="y" * 256)])
        assert books.ledger.position("w") == (1, 1)
        assert len(books.rows()) == 1

    def test_old_sources_are_forgotten(self, books: Books) -> None:
        for source in ("old", "fresh"):
            books.ledger.apply(source, None, (1, 1), [])
        work = "UPDATE usage_positions SET updated_at = 0 WHERE source = ?"
        books.database.run(lambda session: session.execute(work, ("old",)))
        books.ledger.apply("fresh", (1, 1), (1, 2), [])
        assert books.sources() == ["fresh", "old"]
        books.ledger.apply("new", None, (1, 1), [])
        assert books.sources() == ["fresh", "new"]


class TestSeveralAtOnce:
    def test_nodes_that_add_to_the_same_rows_lose_nothing(self, books: Books) -> None:
        """Each node passes its rows in an order of its own."""
        entries = [entry(model=f"m{number}") for number in range(30)]

        def node(source: str, order: Sequence[Entry]) -> None:
            after = None
            for step in range(1, 11):
                assert books.ledger.apply(source, after, (1, step), order)
                after = (1, step)

        nodes = [
            gevent.spawn(node, f"node-{number}", entries[:: 1 if number % 2 else -1])
            for number in range(6)
        ]
        gevent.joinall(nodes, raise_error=True)
        assert [row[4] for row in books.rows()] == [60] * 30

    def test_two_processes_with_one_source_add_it_once(self, books: Books) -> None:
        """A restarted shipper while the old one still writes, even with a new source."""
        for source in ("first", "second", "third"):
            for step in range(4):
                after = (1, step) if step else None
                two = [
                    gevent.spawn(books.ledger.apply, source, after, (1, step + 1), [entry()])
                    for _ in range(2)
                ]
                gevent.joinall(two, raise_error=True)
                assert sorted(greenlet.value for greenlet in two) == [False, True]
        assert books.rows()[0][4] == 12


#: One row, one number: how many wait for a row that another transaction has locked.
WAITING = {
    "mysql": "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'",
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
}


@pytest.mark.parametrize(
    ("server", "url"), [("mariadb", "mysql_url"), ("postgres", "postgres_url")]
)
def test_the_victim_of_a_deadlock_is_retried(
    server: str, url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books(request.getfixturevalue(url))
    admin: Callable[[str], list[Any]] = request.getfixturevalue(server).admin
    entries = [entry(model=f"m{number:03}") for number in range(300)]
    books.ledger.apply("seed", None, (1, 1), entries)
    dialect = books.database.dialect
    verdicts: list[bool] = []
    original = dialect.is_deadlock

    def spy(error: Exception) -> bool:
        verdicts.append(original(error))
        return verdicts[-1]

    monkeypatch.setattr(dialect, "is_deadlock", spy)
    locked = Event()

    def rival(session: Session) -> None:
        """Has changed more rows, so that MySQL spares it, and waits later, so that PostgreSQL
        does: the ledger is the victim."""
        sql = "UPDATE usage_hourly SET requests = requests + 1 WHERE model"
        session.execute(f"{sql} >= ?", ("m001",))
        locked.set()
        wait_until(lambda: int(admin(WAITING[dialect.name])[0][-1]) > 0)
        session.execute(f"{sql} = ?", ("m000",))

    other = gevent.spawn(books.database.run, rival)
    assert locked.wait(10)
    assert books.ledger.apply("w", None, (1, 1), entries[:2])
    other.get(timeout=10)
    assert verdicts == [True]
    assert [row[4] for row in books.rows()] == [3, 3] + [2] * 298


class TestSums:
    @pytest.fixture(autouse=True)
    def fill(self, books: Books) -> None:
        books.ledger.apply(
            "w",
            None,
            (1, 1),
            [
                entry(),
                entry(token=T2, model="o3", counts=(5, 1, 50, 60, 7, 8)),
                entry(hour=NEXT, counts=(2, 2, 0, 0, 0, 0)),
                entry(hour=NEXT, project=P2, token=T2, model="", counts=(3, 3, 0, 0, 0, 0)),
            ],
        )

    def test_by_project(self, books: Books) -> None:
        first, second = books.sums("project")
        assert (first.project_id, second.project_id) == (P1, P2)
        assert counts(first) == (8, 3, 59, 72, 11, 10)
        assert counts(second) == (3, 3, 0, 0, 0, 0)
        assert (first.hour, first.token_id, first.model, first.token) == (None,) * 4

    @pytest.mark.parametrize(
        ("group_by", "keys"),
        [
            (["token"], [(T1,), (T2,)]),
            (["model"], [("",), ("gpt-4",), ("o3",)]),
            (["hour"], [(HOUR,), (NEXT,)]),
            (["model", "hour"], [("", NEXT), ("gpt-4", HOUR), ("gpt-4", NEXT), ("o3", HOUR)]),
            (["hour", "project"], [(HOUR, P1), (NEXT, P1), (NEXT, P2)]),
        ],
    )
    def test_groups_come_in_the_order_of_their_keys(
        self, books: Books, group_by: list[str], keys: list[tuple[Any, ...]]
    ) -> None:
        found = books.sums(*group_by)
        columns = {"project": "project_id", "token": "token_id"}
        assert [
            tuple(getattr(row, columns.get(name, name)) for name in group_by) for row in found
        ] == keys
        assert sum(row.requests for row in found) == 11
        assert all(type(count) is int for row in found for count in counts(row))

    @pytest.mark.parametrize(
        ("chosen", "requests"),
        [
            ({"project_id": P2}, 3),
            ({"token_id": T2}, 8),
            ({"model": "o3"}, 5),
            ({"model": ""}, 3),
            ({"project_id": P1, "token_id": T2}, 5),
            ({"end": NEXT}, 6),
            ({"start": NEXT}, 5),
            ({"start": NEXT, "end": NEXT}, 0),
            ({"project_id": "none"}, 0),
        ],
    )
    def test_filters(self, books: Books, chosen: dict[str, Any], requests: int) -> None:
        assert sum(row.requests for row in books.sums("hour", "token", **chosen)) == requests

    def test_sums_are_limited(self, books: Books) -> None:
        assert [row.model for row in books.sums("model", limit=2)] == ["", "gpt-4"]


def test_names_come_with_the_ids(books: Books) -> None:
    project = Projects(books.database, Cipher(b"k" * 32)).create("Acme ☃", "sk-real", "sk-...")
    token = Tokens(books.database).create(
        new_token_id(), project.id, "a" * 64, "sk-aaaa...bbbb", NEXT, name="ci"
    )
    entries = [entry(project=project.id, token=token.id), entry(project=P1, token=T1)]
    books.ledger.apply("w", None, (1, 1), entries)
    found = {row.token_id: row for row in books.sums("project", "token")}
    known, unknown = found[token.id], found[T1]
    assert (known.project_name, known.token, known.token_name) == ("Acme ☃", "sk-aaaa...bbbb", "ci")
    assert (unknown.project_name, unknown.token, unknown.token_name) == (None, None, None)
    (alone,) = books.sums("token", token_id=token.id)
    assert (alone.project_id, alone.project_name, alone.token_name) == (None, None, "ci")
