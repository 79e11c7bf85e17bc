"""Export and import: every database exports the same file, and imports all of it or nothing."""

import io
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import SchemaOutdated, StoreError
from proxy.crypto.cipher import Cipher
from proxy.crypto.tokens import hash_token, new_token_id
from proxy.providers.records import ROUTING_REVISION
from proxy.store import export
from proxy.store.changes import Changes
from proxy.store.counters import Counters
from proxy.store.database import Database, Session
from proxy.store.export import export_all, import_all
from proxy.store.export_format import KINDS, TransferError
from proxy.store.grants import Grants
from proxy.store.mappings import Mappings
from proxy.store.migrate import Migrator
from proxy.store.projects import Projects
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.store.routing_tables import RoutingTables
from proxy.store.rows import from_micros
from proxy.store.tokens import Tokens

OLD, NEW = b"o" * 32, b"n" * 32
CIPHER = Cipher(NEW, [OLD])
LATER = from_micros(4_000_000_000_123_456)


def migrated(url: str) -> Database:
    database = Database.from_url(url)
    Migrator(database).migrate()
    return database


@pytest.fixture
def new_sqlite(tmp_path: Path, closing: None) -> Callable[[], Database]:
    made: list[Database] = []

    def make() -> Database:
        made.append(migrated(f"sqlite:///{tmp_path / f'{len(made)}.db'}"))
        return made[-1]

    return make


@pytest.fixture
def database(migrated_url: str) -> Database:
    return migrated(migrated_url)


def fill(database: Database) -> Database:
    """Rows with a value in every column, and rows with NULL wherever it is allowed."""
    old, new = Projects(database, Cipher(OLD)), Projects(database, CIPHER)
    metadata = {"b": [1, 2.50, None], "a": {"ö": '\U0001f9ab \\ " \u2028'}, "big": 2**63 - 1}
    tokens = Tokens(database)
    first = old.create("Acme 100% ☃ ' ?", "sk-1", "sk-1...", "two\nlines \x7f", metadata)
    new.update(first.id, {"policy": {"on_disconnect": "drain"}})
    new.purge_responses(first.id)
    second = new.create("acme", "sk-2", "sk-2...")
    third = new.create("Gone ", "sk-3", "sk-3...", "")
    for number, project in enumerate((first, second, third, first, second)):
        token_id = new_token_id()
        lineage = [tokens.list()[-1].id] if number == 3 else []
        tokens.create(
            token_id, project.id, hash_token(str(number)), f"m{number}", LATER, lineage=lineage
        )
        if number % 2:
            used = (token_id, number, 2**50, 0, LATER - timedelta(days=1))
            Counters(database).add_counts([used])
            tokens.update(token_id, {"name": f"ci {number}", "max_requests": 2**63 - 1})
    policy = "UPDATE tokens SET policy = ?, cache_hit_count = ? WHERE name IS NOT NULL"
    database.run(lambda session: session.execute(policy, ('{"z": 1e2,  "a":1}', 2**62)))
    tokens.revoke_secret(hash_token("4"))
    new.deactivate(third.id)
    return database


def fill_routing(database: Database) -> Database:
    """Two providers, a key under each encryption key, a mapping to a provider of a file."""
    providers, mappings = Providers(database), Mappings(database, lambda: {"file:eu"})
    first = providers.create("a ☃", "azure", "https://a.test", {"timeout": 2.5}, is_default=True)
    second = providers.create("b", "openai", "https://b.test/v1", is_active=False)
    ProviderKeys(database, Cipher(OLD)).create(first.id, "k", "sk-4", "sk-4...", 0, ["gpt-*"])
    ProviderKeys(database, CIPHER).create(second.id, "k", "sk-5", "sk-5...")
    mappings.create("fast", first.id, "gpt-5", 1, config={"defaults": {"a": 1e2}})
    mappings.create("fast", "file:eu", "☃", is_default=True)
    return database


def exported(database: Database) -> bytes:
    out = io.BytesIO()
    export_all(database, out.write)
    return out.getvalue()


def put(database: Database, data: bytes, key_ids: Any = CIPHER.key_ids) -> None:
    import_all(database, io.BytesIO(data), key_ids)


def is_empty(database: Database) -> bool:
    return all(
        database.run(lambda session, kind=kind: session.one(f"SELECT COUNT(*) FROM {kind.table}"))
        == (0,)
        for kind in KINDS
    )


class TestRoundTrip:
    def test_an_export_passes_through_every_database(
        self, database: Database, new_sqlite: Callable[[], Database]
    ) -> None:
        source, back = fill_routing(fill(new_sqlite())), new_sqlite()
        first = exported(source)
        put(database, first)
        second = exported(database)
        put(back, second)
        assert first == second == exported(back)

    def test_imported_tokens_work(
        self, database: Database, new_sqlite: Callable[[], Database]
    ) -> None:
        fill(database)
        there = new_sqlite()
        put(there, exported(database))
        here_projects, there_projects = Projects(database, CIPHER), Projects(there, CIPHER)
        assert here_projects.list() == there_projects.list()
        assert Tokens(database).list() == Tokens(there).list()
        for number in range(5):
            grant = Grants(there, CIPHER).find(hash_token(str(number)))
            assert grant is not None
            assert grant == Grants(database, CIPHER).find(hash_token(str(number)))

    def test_imported_providers_work(
        self, database: Database, new_sqlite: Callable[[], Database]
    ) -> None:
        fill_routing(database)
        there = new_sqlite()
        start = Changes(there).now() - 1
        put(there, exported(database))
        assert RoutingTables(there, CIPHER).read() == RoutingTables(database, CIPHER).read()
        assert len(RoutingTables(there, CIPHER).read().keys) == 2
        announced = [change.id for change in Changes(there).since(start).changes]
        assert ROUTING_REVISION in announced, "servers may be running already"

    def test_an_empty_database(
        self, database: Database, new_sqlite: Callable[[], Database]
    ) -> None:
        data = exported(database)
        assert len(data.splitlines()) == 1
        there = new_sqlite()
        put(there, data)
        assert is_empty(there)


class TestExport:
    def test_the_header_has_schema_key_ids_and_counts(self, database: Database) -> None:
        data = exported(fill(database))
        header, *lines = [json.loads(line) for line in data.splitlines()]
        assert header == {
            "format": "openai-proxy export",
            "version": 1,
            "schema": len(Migrator(database).status()),
            "key_ids": sorted(CIPHER.key_ids),
            "projects": 3,
            "tokens": 5,
            "providers": 0,
            "provider_keys": 0,
            "mappings": 0,
        }
        assert [line["kind"] for line in lines] == ["project"] * 3 + ["token"] * 5
        assert b"sk-1" not in data.replace(b"sk-1...", b"")

    def test_a_plaintext_key_is_not_exported(self, database: Database) -> None:
        fill(database)
        sql = "UPDATE projects SET upstream_key = ? WHERE name = ?"
        for stored in ("sk-in-clear", "v1:sk-in-clear"):
            database.run(lambda session, stored=stored: session.execute(sql, (stored, "acme")))
            written: list[bytes] = []
            with pytest.raises(TransferError, match=r"\(acme\).*keys rotate") as caught:
                export_all(database, written.append)
            assert written == []
            assert "in-clear" not in str(caught.value)

    def test_a_plaintext_provider_key_is_not_exported(self, database: Database) -> None:
        fill_routing(database)
        sql = "UPDATE provider_keys SET value = ?"
        database.run(lambda session: session.execute(sql, ("sk-in-clear",)))
        with pytest.raises(TransferError, match=r"value of provider_key .*keys rotate") as caught:
            exported(database)
        assert "in-clear" not in str(caught.value)

    def test_an_export_is_a_snapshot(
        self, database: Database, migrated_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Rows written during the export are not in it."""
        monkeypatch.setattr(export, "_PAGE", 1)
        fill(database)
        before = exported(database)
        other = Database.from_url(migrated_url)
        sql = "SELECT id FROM projects WHERE name = ?"
        row = other.run(lambda session: session.one(sql, ("acme",)))
        assert row is not None
        written: list[bytes] = []

        def write(line: bytes) -> None:
            written.append(line)
            _elsewhere(migrated_url, len(written), row[0])

        export_all(database, write)
        assert b"".join(written) == before
        assert exported(database) != before

    def test_rows_are_read_in_pages(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = exported(fill(database))
        monkeypatch.setattr(export, "_PAGE", 2)
        original = Session.all
        longest = 0

        def counted(session: Session, *args: Any) -> list[Any]:
            nonlocal longest
            rows = original(session, *args)
            if "LIMIT" in args[0]:
                longest = max(longest, len(rows))
            return rows

        monkeypatch.setattr(Session, "all", counted)
        assert exported(database) == before
        assert longest == 2

    def test_a_full_disk_is_reported(self, database: Database) -> None:
        def write(line: bytes) -> None:
            raise OSError(28, "No space left on device")

        with pytest.raises(TransferError, match="No space left"):
            export_all(database, write)
        assert exported(database)

    def test_an_old_schema_is_refused(self, database_url: str) -> None:
        with pytest.raises(SchemaOutdated):
            exported(Database.from_url(database_url))


def _elsewhere(url: str, number: int, project_id: str) -> None:
    """A new token, on a connection of its own."""
    if not url.startswith("sqlite"):
        tokens = Tokens(Database.from_url(url))
        tokens.create(new_token_id(), project_id, f"{number:064x}", "mask", LATER)
        return
    # An export from SQLite writes on a native thread, where no Database of this loop may be used.
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute(
            "INSERT INTO tokens (id, token_hash, token_mask, project_id, expires_at, created_at, "
            "updated_at) VALUES (?, ?, 'mask', ?, 1, 2, 3)",
            (new_token_id(), f"{number:064x}", project_id),
        )
        connection.commit()


def change(data: bytes, number: int, **fields: Any) -> bytes:
    """``data`` with other fields on one line (from 1)."""
    lines = data.splitlines(keepends=True)
    content = json.loads(lines[number - 1]) | fields
    lines[number - 1] = json.dumps(content).encode() + b"\n"
    return b"".join(lines)


class TestImport:
    @pytest.fixture
    def data(self, new_sqlite: Callable[[], Database]) -> bytes:
        return exported(fill(new_sqlite()))

    def refused(self, database: Database, data: bytes, said: str) -> None:
        with pytest.raises(TransferError, match=said):
            put(database, data)
        assert is_empty(database)

    def test_a_database_with_rows_is_refused(self, database: Database, data: bytes) -> None:
        put(database, data)
        with pytest.raises(TransferError, match="not empty, it has projects"):
            put(database, data)
        assert exported(database) == data

    def test_a_database_without_migrations_is_refused(self, database_url: str, data: bytes) -> None:
        with pytest.raises(SchemaOutdated):
            put(Database.from_url(database_url), data)

    def test_missing_keys_are_named(self, database: Database, data: bytes) -> None:
        with pytest.raises(TransferError, match=f"with the ids {Cipher(OLD).key_id}: ") as caught:
            put(database, data, Cipher(NEW).key_ids)
        assert Cipher(NEW).key_id not in str(caught.value)
        assert is_empty(database)
        put(database, data, None)
        assert exported(database) == data

    @pytest.mark.parametrize(
        ("number", "fields", "said"),
        [
            (1, {"schema": 99}, "line 1: .*newer version"),
            (1, {"format": "x"}, "line 1: "),
            (2, {"kind": "ledger"}, "line 2: .*kind"),
            (3, {"surprise": 1}, "line 3: unknown field 'surprise'"),
            (4, {"is_active": "yes"}, "line 4: is_active: expected true or false"),
            (9, {"request_count": -1}, "line 9: request_count"),
            (9, {"project_id": "00000000-0000-4000-8000-000000000000"}, "line 9: project_id"),
            (3, {"upstream_key": "v1:00000000:AAAA"}, "line 3: upstream_key"),
            (1, {"projects": 4}, "not whole: 3 project lines"),
            (1, {"tokens": 4}, "not whole: 5 token lines"),
        ],
    )
    def test_a_bad_line_is_named_and_nothing_imported(
        self, database: Database, data: bytes, number: int, fields: dict[str, Any], said: str
    ) -> None:
        self.refused(database, change(data, number, **fields), said)
        put(database, data)

    @pytest.mark.parametrize(
        ("number", "fields", "said"),
        [
            (4, {"provider_id": "00000000-0000-4000-8000-000000000000"}, "line 4: provider_id"),
            (4, {"value": "v1:00000000:AAAA"}, "line 4: value"),
            (1, {"mappings": 3}, "not whole: 2 mapping lines"),
            (1, {"providers": 1}, "not whole: 2 provider lines"),
        ],
    )
    def test_a_bad_line_of_the_routing_tables_is_named(
        self,
        database: Database,
        new_sqlite: Callable[[], Database],
        number: int,
        fields: dict[str, Any],
        said: str,
    ) -> None:
        data = exported(fill_routing(new_sqlite()))
        self.refused(database, change(data, number, **fields), said)
        put(database, data)

    @pytest.mark.parametrize(
        ("line", "kind"), [(2, "provider"), (4, "provider_key"), (6, "mapping")]
    )
    def test_a_repeated_row_of_the_routing_tables_is_refused(
        self, database: Database, new_sqlite: Callable[[], Database], line: int, kind: str
    ) -> None:
        data = exported(fill_routing(new_sqlite()))
        value = json.loads(data.splitlines()[line - 1])["id"]
        twice = change(data, line + 1, id=value)
        self.refused(database, twice, f"line {line + 1}: an earlier line has a {kind} with")

    @pytest.mark.parametrize("field", ["id", "token_hash"])
    def test_a_repeated_token_is_refused(self, database: Database, data: bytes, field: str) -> None:
        value = json.loads(data.splitlines()[4])[field]
        self.refused(database, change(data, 8, **{field: value}), "line 8: .*id or token_hash")

    @pytest.mark.parametrize("parent", ["unknown", "of another project"])
    def test_a_missing_parent_is_refused(
        self, database: Database, data: bytes, parent: str
    ) -> None:
        tokens = [json.loads(line) for line in data.splitlines()[4:]]
        stranger = tokens[1]["id"] if parent == "of another project" else tokens[1]["project_id"]
        wrong = change(data, 8, parent_id=stranger)
        self.refused(database, wrong, f"token {tokens[3]['id']}: parent_id")

    def test_a_child_may_precede_its_parent(self, database: Database, data: bytes) -> None:
        """By the clocks of two nodes the child may be older."""
        tokens = [json.loads(line) for line in data.splitlines()[4:]]
        older = change(data, 8, parent_id=None)
        older = change(older, 5, parent_id=tokens[3]["id"])
        put(database, older)
        assert Tokens(database).get(tokens[0]["id"]).parent_id == tokens[3]["id"]

    @pytest.mark.parametrize("field", ["id", "name"])
    def test_a_repeated_project_is_refused(
        self, database: Database, data: bytes, field: str
    ) -> None:
        value = json.loads(data.splitlines()[1])[field]
        self.refused(database, change(data, 4, **{field: value}), "line 4: .*id or name")

    def test_a_truncated_file_is_refused(self, database: Database, data: bytes) -> None:
        lines = data.splitlines(keepends=True)
        self.refused(database, b"".join(lines[:-1]), "not whole: 4 token lines")
        self.refused(database, data[:-20], "line 9: not valid JSON")
        self.refused(database, b"", "line 1: this is no export")
        self.refused(database, b"\n".join(lines), "line 2: not valid JSON")

    @pytest.mark.parametrize("junk", [b"\x00" * 10, b"[1]\n", b"\xff\n", b"null"])
    def test_other_files_are_refused(self, database: Database, junk: bytes) -> None:
        self.refused(database, junk, "line 1: ")

    def test_a_line_without_an_end_is_refused(
        self, database: Database, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(export, "_MAX_LINE_BYTES", 2000)
        self.refused(database, data + b" " * 3000, "line 10: longer than 2000 bytes")

    def test_a_file_of_an_older_schema_is_imported(self, database: Database, data: bytes) -> None:
        lines = [json.loads(line) for line in data.splitlines()]
        lines[0]["schema"] = 1
        for table in ("providers", "provider_keys", "mappings"):
            del lines[0][table]
        for line in lines[1:]:
            del line["policy"]
        put(database, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        assert all(project.policy == {} for project in Projects(database, CIPHER).list())

    def test_a_file_that_cannot_be_read_is_reported(self, database: Database) -> None:
        class Broken(io.BytesIO):
            def readline(self, size: int | None = -1, /) -> bytes:
                raise OSError(5, "Input/output error")

        with pytest.raises(TransferError, match="Input/output error"):
            import_all(database, Broken(), None)

    def test_a_failing_database_imports_nothing(
        self, database: Database, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Session.execute

        def execute(self: Session, sql: str, params: Any = ()) -> int:
            if sql.startswith("INSERT INTO tokens"):
                raise StoreError
            return original(self, sql, params)

        with monkeypatch.context() as patch:
            patch.setattr(Session, "execute", execute)
            with pytest.raises(StoreError):
                put(database, data)
        assert is_empty(database)
