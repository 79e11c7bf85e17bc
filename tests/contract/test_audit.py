"""One behaviour of the audit log, on every database."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
import pytest

from proxy.core.errors import ClientError, StoreError
from proxy.crypto.cipher import Cipher
from proxy.store import audit_chain, rotation
from proxy.store.audit import AuditEntry, AuditLog, PendingEntry
from proxy.store.audit_chain import Break, Link, verify
from proxy.store.database import Database
from proxy.store.projects import Projects
from proxy.store.records import AccessToken, Project
from tests.support.stored_records import ABSENT, LATER, Store

COLUMNS = [*audit_chain.COLUMNS.split(", "), "hash"]
FUTURE = datetime.now(UTC) + timedelta(days=1)


class Audited(Store):
    """The store, with an audit entry for each change."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.log = AuditLog(self.database)

    def run(self, sql: str, *params: Any) -> int:
        return self.database.run(lambda session: session.execute(sql, params))

    def write(self, count: int, action: str = "auth.denied") -> list[AuditEntry]:
        return self.log.write([PendingEntry(action, "anonymous", "::1") for _ in range(count)])

    def newest(self, count: int | None = None, **filters: Any) -> list[AuditEntry]:
        return self.log.find(filters, count or 1000, 0)[0]

    def row(self, seq: int) -> list[Any]:
        sql = f"SELECT {', '.join(COLUMNS)} FROM audit_events WHERE seq = ?"
        row = self.database.run(lambda session: session.one(sql, (seq,)))
        assert row is not None
        return list(row)

    def broken(self, expected: Link | None = None) -> Break | None:
        return verify(self.database, expected).broken


@pytest.fixture
def store(migrated_url: str) -> Iterator[Audited]:
    made = Audited(migrated_url)
    yield made
    made.database.close()


def draft(action: str = "project.update", **more: Any) -> PendingEntry:
    return PendingEntry(action, "management:1f2e", "203.0.113.7", "req-1", **more)


class TestWithTheChange:
    def test_a_new_project(self, store: Audited) -> None:
        audit = draft("project.create")
        project = store.project(metadata={"team": "a"}, policy={"on_revoke": "cut"}, audit=audit)
        (entry,) = store.newest()
        assert audit.entry == entry
        assert (entry.seq, entry.action, entry.actor) == (1, "project.create", "management:1f2e")
        assert (entry.outcome, entry.client_ip, entry.request_id) == (
            "success",
            "203.0.113.7",
            "req-1",
        )
        assert (entry.project_id, entry.token_id) == (project.id, None)
        assert entry.details == {
            "after": {
                "name": "Acme",
                "metadata": {"team": "a"},
                "api_key": "sk-real-...-key",
                "is_active": True,
                "on_revoke": "cut",
            }
        }
        assert abs(entry.created_at - project.created_at) < timedelta(minutes=1)

    def test_only_what_was_changed(self, store: Audited) -> None:
        project = store.project(policy={"on_revoke": "cut"})
        changes = {"name": "New", "is_active": True, "policy": {"on_revoke": None}}
        store.projects.update(project.id, changes, audit=draft())
        assert store.newest()[0].details == {
            "before": {"name": "Acme", "on_revoke": "cut"},
            "after": {"name": "New", "on_revoke": None},
        }

    def test_a_key_whose_mask_stays(self, store: Audited) -> None:
        project = store.project()
        changes = {"upstream_key": "sk-another", "upstream_key_mask": project.api_key}
        store.projects.update(project.id, changes, audit=draft())
        masks = {"api_key": project.api_key}
        assert store.newest()[0].details == {"before": masks, "after": masks}

    def test_a_deactivation_has_the_number_of_tokens(self, store: Audited) -> None:
        project = store.project()
        store.token(project)
        store.token(project)
        store.projects.deactivate(project.id, draft("project.delete"))
        (entry,) = store.newest()
        assert entry.details == {
            "before": {"is_active": True},
            "after": {"is_active": False},
            "revoked_tokens": 2,
        }

    def test_a_token(self, store: Audited) -> None:
        project = store.project()
        token = store.token(project, name="ci", max_requests=5, audit=draft("token.create"))
        store.tokens.update(token.id, {"max_requests": 9}, draft("token.update"))
        store.tokens.revoke(token.id, draft("token.revoke"))
        store.tokens.revoke_secret(f"{1:064x}", draft("token.revoke"))
        again, revoked, changed, made = store.newest()
        assert all((e.project_id, e.token_id) == (project.id, token.id) for e in store.newest())
        expires = LATER.isoformat().replace("+00:00", "Z")
        assert made.details["after"] == {
            "token": token.token,
            "name": "ci",
            "expires_at": expires,
            "is_active": True,
            "max_requests": 5,
        }
        assert changed.details == {"before": {"max_requests": 5}, "after": {"max_requests": 9}}
        assert revoked.details == {"before": {"is_active": True}, "after": {"is_active": False}}
        assert again.details == {"before": {}, "after": {}}

    def test_all_tokens_of_a_project(self, store: Audited) -> None:
        project = store.project()
        store.token(project)
        store.tokens.revoke_all(project.id, draft("token.revoke_batch"))
        (entry,) = store.newest()
        assert entry.project_id == project.id
        assert entry.details == {
            "revoked_count": 1,
            "already_revoked_count": 0,
            "total_tokens": 1,
        }

    def test_a_refused_change_has_no_entry(self, store: Audited) -> None:
        project, other = store.project("a"), store.project("b")
        calls: list[Callable[[], Project | AccessToken]] = [
            lambda: store.projects.update(other.id, {"name": "a"}, audit=draft()),
            lambda: store.projects.update(ABSENT, {"name": "c"}, audit=draft()),
            lambda: store.project("a", audit=draft()),
            lambda: store.tokens.revoke(ABSENT, draft()),
        ]
        for call in calls:
            with pytest.raises(ClientError):
                call()
        assert store.newest() == []
        assert store.projects.get(project.id).name == "a"

    def test_a_change_whose_entry_fails_is_rolled_back(self, store: Audited) -> None:
        project = store.project()
        store.run("DELETE FROM audit_chain")
        with pytest.raises(StoreError):
            store.projects.update(project.id, {"name": "New"}, audit=draft())
        with pytest.raises(StoreError):
            store.project("Other", audit=draft())
        assert [known.name for known in store.projects.list()] == ["Acme"]

    def test_rotated_keys(self, store: Audited) -> None:
        project = store.project()
        old = store.cipher.key_id
        renewed = Cipher(b"n" * 32, (b"k" * 32,))
        for _ in range(2):
            rotation.rotate(store.database, renewed, lambda: PendingEntry("keys.rotate", "cli"))
        (entry,) = store.newest()
        assert (entry.actor, entry.project_id) == ("cli", project.id)
        assert entry.details == {"before": {"key_id": old}, "after": {"key_id": renewed.key_id}}

    def test_any_header_text_can_be_stored(self, store: Audited) -> None:
        odd = PendingEntry("auth.denied", "ü" * 300, "ä\x00" * 50, "r" * 300)
        (entry,) = store.log.write([odd])
        assert entry == store.log.get(entry.id)
        assert (entry.client_ip, len(entry.actor)) == ("??" * 32, 255)
        text = 'ünï "\x00\\ \U0001f9ab'
        (entry,) = store.log.write([PendingEntry("x", "cli", details={"text": text})])
        assert store.log.get(entry.id).details == {"text": text}
        assert store.broken() is None


class TestFind:
    @pytest.fixture
    def entries(self, store: Audited) -> list[AuditEntry]:
        drafts = [
            PendingEntry("token.create", "management:1f2e", "::1", "r1", project_id=ABSENT),
            PendingEntry("token.mint", "token:abc", "::2", "r2", token_id=ABSENT),
            PendingEntry("auth.denied", "anonymous", "::1", "r3", "denied"),
            PendingEntry(
                "project.update", "tokens", "::1", "r4", details={"name": 'Ärger "100%_!\\'}
            ),
        ]
        return store.log.write(drafts)

    @pytest.mark.parametrize(
        ("filters", "numbers"),
        [
            ({}, [4, 3, 2, 1]),
            ({"action": "auth.denied"}, [3]),
            ({"action": "auth"}, []),
            ({"actor": "management"}, [1]),
            ({"actor": "management:1f2e"}, [1]),
            ({"actor": "token"}, [2]),
            ({"actor": "token%"}, []),
            ({"project_id": ABSENT}, [1]),
            ({"token_id": ABSENT}, [2]),
            ({"outcome": "denied"}, [3]),
            ({"client_ip": "::1"}, [4, 3, 1]),
            ({"request_id": "r2"}, [2]),
            ({"search": "DENIED"}, [3]),
            ({"search": "1F2e"}, [1]),
            ({"search": "ärger"}, None),  # case folding of the database
            ({"search": "Ärger"}, [4]),
            ({"search": 'ger "100%_!\\'}, [4]),
            ({"search": "100__!"}, []),
            ({"search": "%"}, [4]),
            ({"search": "_"}, [4]),
            ({"search": "!"}, [4]),
            ({"client_ip": "::1", "outcome": "success"}, [4, 1]),
            ({"client_ip": "ä"}, []),
            ({"action": "ä"}, []),
            ({"actor": "ä"}, []),
        ],
    )
    def test_filters(
        self,
        store: Audited,
        entries: list[AuditEntry],
        filters: dict[str, str],
        numbers: list[int] | None,
    ) -> None:
        found, total = store.log.find(filters, 10, 0)
        assert total == len(found)
        if numbers is not None:
            assert [entry.seq for entry in found] == numbers
        assert {entry.id for entry in found} <= {entry.id for entry in entries}

    def test_pages_and_times_of_entries(self, store: Audited, entries: list[AuditEntry]) -> None:
        found, total = store.log.find({"client_ip": "::1"}, 2, 2)
        assert ([entry.seq for entry in found], total) == ([1], 3)
        micros = int(entries[2].created_at.timestamp() * 1e6 + 0.5)
        before = [entry.seq for entry in store.newest(end=micros)]
        since = [entry.seq for entry in store.newest(start=micros)]
        assert 3 in since
        assert before + since == [] or sorted(before + since) == [1, 2, 3, 4]

    def test_one_entry_by_id(self, store: Audited, entries: list[AuditEntry]) -> None:
        assert store.log.get(entries[1].id) == entries[1]
        with pytest.raises(ClientError) as caught:
            store.log.get(ABSENT)
        assert caught.value.code == "not_found"

    def test_repeated_drafts_are_written_once(self, store: Audited) -> None:
        """After an error it is unknown whether the entries were written."""
        drafts = [PendingEntry("auth.denied", "anonymous") for _ in range(3)]
        store.log.write(drafts[:2])
        assert [entry.id for entry in store.log.write(drafts)] == [drafts[2].id]
        assert len(store.newest()) == 3


def netstring(value: Any) -> bytes:
    text = str(value).encode()
    return b"-," if value is None else str(len(text)).encode() + b":" + text + b","


class TestChain:
    def test_the_format(self, store: Audited) -> None:
        """The hash of the documented format, computed by hand."""
        previous = ""
        for number, entry in enumerate(store.write(3), 1):
            *content, own = store.row(number)
            values = ["openai-proxy-audit-1", previous, *content]
            previous = hashlib.sha256(b"".join(map(netstring, values))).hexdigest()
            assert previous == own == entry.hash
        assert verify(store.database).ends.head == Link(3, previous)

    def test_an_empty_chain(self, store: Audited) -> None:
        verdict = verify(store.database, Link(0, ""))
        assert (verdict.checked, verdict.broken) == (0, None)

    def test_a_change_of_any_column_is_found(
        self, store: Audited, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(audit_chain, "_PAGE", 2)
        store.write(5)
        other: dict[str, Any] = {"project_id": ABSENT, "token_id": ABSENT, "created_at": 1}
        for column in COLUMNS[1:]:
            known = store.row(3)[COLUMNS.index(column)]
            value = other.get(column, "x")
            store.run(f"UPDATE audit_events SET {column} = ? WHERE seq = 3", value)
            assert (broken := store.broken()) is not None, column
            assert (broken.seq, broken.id) == (3, store.row(3)[1]), column
            store.run(f"UPDATE audit_events SET {column} = ? WHERE seq = 3", known)
            assert store.broken() is None

    def test_a_rewritten_row_is_found(self, store: Audited) -> None:
        """Its new hash matches its content, so the hash of the next row no longer matches."""
        store.write(5)
        content = store.row(3)[:-1]
        content[COLUMNS.index("actor")] = "cli"
        made = audit_chain.link_hash(store.row(2)[-1], content)
        store.run("UPDATE audit_events SET actor = 'cli', hash = ? WHERE seq = 3", made)
        assert (broken := store.broken()) is not None
        assert broken.seq == 4
        assert "one of the two" in broken.problem

    @pytest.mark.parametrize("page", [2, 500])
    @pytest.mark.parametrize(
        ("gone", "first", "problem"),
        [
            ("seq = 1", 1, "this row is missing"),
            ("seq <= 2", 1, "the rows up to 2 are missing"),
            ("seq = 3", 3, "this row is missing"),
            ("seq IN (3, 4)", 3, "the rows up to 4 are missing"),
            ("seq = 6", 6, "this row is missing"),
            ("seq >= 5", 5, "the rows up to 6 are missing"),
            ("seq > 0", 1, "the rows up to 6 are missing"),
        ],
    )
    def test_missing_rows_are_found(
        self,
        store: Audited,
        monkeypatch: pytest.MonkeyPatch,
        page: int,
        gone: str,
        first: int,
        problem: str,
    ) -> None:
        monkeypatch.setattr(audit_chain, "_PAGE", page)
        store.write(6)
        store.run(f"DELETE FROM audit_events WHERE {gone}")
        assert store.broken() == (first, None, problem)

    def test_swapped_rows_are_found(self, store: Audited) -> None:
        store.write(5)
        for old, new in ((2, 99), (4, 2), (99, 4)):
            store.run("UPDATE audit_events SET seq = ? WHERE seq = ?", new, old)
        assert (broken := store.broken()) is not None
        assert broken.seq == 2

    def test_a_row_beyond_the_head_is_found(self, store: Audited) -> None:
        store.write(2)
        head = store.row(1)[-1]
        store.run("UPDATE audit_chain SET seq = 1, hash = ?", head)
        assert store.broken() == (2, store.row(2)[1], "this row is newer than the chain's head")

    def test_a_changed_head_is_found(self, store: Audited) -> None:
        store.write(2)
        store.run("UPDATE audit_chain SET hash = 'x'")
        assert (broken := store.broken()) is not None
        assert (broken.seq, "head" in broken.problem) == (2, True)
        store.run("UPDATE audit_chain SET pruned_seq = 7")
        assert store.broken() is not None
        store.run("DELETE FROM audit_chain")
        with pytest.raises(StoreError):
            store.broken()

    def test_a_rewritten_chain_lacks_the_noted_link(self, store: Audited) -> None:
        store.write(4)
        noted = verify(store.database).ends.head
        assert store.broken(noted) is None
        assert store.broken(Link(2, store.row(2)[-1])) is None
        store.run("DELETE FROM audit_events")
        store.run("UPDATE audit_chain SET seq = 0, hash = ''")
        assert store.broken(noted) == (0, None, "expected row 4, and the chain ends before it")
        store.write(6)
        assert store.broken() is None
        assert (broken := store.broken(noted)) is not None
        assert (broken.seq, "made anew" in broken.problem) == (4, True)


class TestPrune:
    def test_the_oldest_entries_are_deleted_and_the_chain_stays_valid(self, store: Audited) -> None:
        entries = store.write(5)
        noted = Link(1, entries[0].hash)
        assert store.log.prune(entries[0].created_at - timedelta(days=1), 10) == 0
        assert [store.log.prune(FUTURE, 2) for _ in range(2)] == [2, 2]
        verdict = verify(store.database)
        assert (verdict.checked, verdict.broken) == (1, None)
        assert verdict.ends.anchor == Link(4, entries[3].hash)
        assert store.broken(Link(4, entries[3].hash)) is None
        assert (broken := store.broken(noted)) is not None
        assert "deleted" in broken.problem
        assert [store.log.prune(FUTURE, 2) for _ in range(2)] == [1, 0]
        assert verify(store.database).checked == 0
        store.write(1)
        assert [entry.seq for entry in store.newest()] == [6]
        assert store.broken() is None

    def test_no_entry_behind_a_newer_one_is_deleted(self, store: Audited) -> None:
        """The clock may have been put back between two entries."""
        entries = store.write(4)
        late = int(FUTURE.timestamp()) * 1_000_000
        store.run("UPDATE audit_events SET created_at = ? WHERE seq = 2", late)
        assert store.log.prune(entries[3].created_at + timedelta(seconds=1), 10) == 1
        assert [entry.seq for entry in store.newest()] == [4, 3, 2]

    def test_a_deleted_row_that_returns_is_found(self, store: Audited) -> None:
        store.write(3)
        row = store.row(1)
        store.log.prune(FUTURE, 2)
        places = ", ".join("?" * len(row))
        store.run(f"INSERT INTO audit_events ({', '.join(COLUMNS)}) VALUES ({places})", *row)
        assert store.broken() == (1, row[1], "this row had been deleted, and is there again")

    def test_pruning_during_a_verification(
        self, store: Audited, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows are deleted and added between two pages."""
        monkeypatch.setattr(audit_chain, "_PAGE", 2)
        store.write(9)
        other = AuditLog(store.database)
        asked = audit_chain._Walk._page
        moves: list[Callable[[], object]] = [
            lambda: None,
            lambda: other.prune(FUTURE, 6),
            lambda: store.write(2),
            lambda: other.prune(FUTURE, 4),
        ]

        def page(walk: Any) -> Any:
            if moves:
                moves.pop(0)()
            return asked(walk)

        monkeypatch.setattr(audit_chain._Walk, "_page", page)
        verdict = verify(store.database)
        assert (verdict.broken, moves) == (None, [])
        assert verdict.ends.anchor.seq == 10


def test_two_nodes_write_one_chain(store: Audited, migrated_url: str) -> None:
    """Two nodes write changes and refusals while retention runs: one chain, without a gap."""
    project = store.project()
    nodes = [Database.from_url(migrated_url) for _ in range(2)]
    count = 12

    def work(database: Database, number: int) -> None:
        log, projects = AuditLog(database), Projects(database, store.cipher)
        for step in range(count):
            projects.update(project.id, {"description": f"{number}-{step}"}, audit=draft())
            log.write([PendingEntry("auth.denied", "anonymous") for _ in range(2)])

    greenlets = [gevent.spawn(work, nodes[number % 2], number) for number in range(4)]
    pruned = 0
    while not all(greenlet.ready() for greenlet in greenlets):
        pruned += store.log.prune(FUTURE, 3)
        assert store.broken() is None
        gevent.sleep(0.02)
    gevent.joinall(greenlets, raise_error=True)
    for database in nodes:
        database.close()
    verdict = verify(store.database)
    assert (verdict.broken, verdict.ends.head.seq) == (None, 4 * count * 3)
    assert verdict.checked + pruned == 4 * count * 3
