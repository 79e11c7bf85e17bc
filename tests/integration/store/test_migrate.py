"""Migrations: each is applied once by any number of nodes, and ``schema.sql`` matches them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.core.errors import SchemaOutdated, StoreError
from proxy.store import migrate
from proxy.store.database import Database, Session
from proxy.store.dialects import DIALECTS
from proxy.store.migrate import Migration, Migrator, check_schema, load, schema_sql
from tests.support.paths import ROOT
from tests.support.services import MariaDB


def test_migrates_once(database_url: str) -> None:
    database = Database.from_url(database_url)
    migrator = Migrator(database)
    assert migrator.status() == migrator.pending()
    assert all(status.applied_at is None for status in migrator.status())
    done = migrator.migrate()
    assert [status.name for status in done] == [m.name for m in load(database.dialect.name)]
    assert all(status.applied_at is not None for status in done)
    assert migrator.status() == done
    assert migrator.pending() == []
    assert Migrator(database).migrate() == []


def test_an_old_schema_says_what_to_do(database_url: str) -> None:
    database = Database.from_url(database_url)
    with pytest.raises(SchemaOutdated, match=re.escape('run "python manage.py db migrate"')):
        check_schema(database)
    Migrator(database).migrate()
    check_schema(database)


def test_a_newer_schema_is_refused(database_url: str) -> None:
    database = Database.from_url(database_url)
    Migrator(database).migrate()
    newer = "INSERT INTO schema_migrations (version, name, applied_at) VALUES (999, 'x', 0)"
    database.run(lambda session: session.execute(newer))
    for call in (Migrator(database).status, Migrator(database).migrate):
        with pytest.raises(SchemaOutdated, match=r"newer than this version.*999"):
            call()
    with pytest.raises(SchemaOutdated, match="newer"):
        check_schema(database)


NODE = """
import sys
from proxy.store.database import Database
from proxy.store.migrate import Migrator
sys.stdin.readline()
print(len(Migrator(Database.from_url(sys.argv[1])).migrate()))
"""


def test_two_nodes_at_once(database_url: str) -> None:
    run = [sys.executable, "-c", NODE, database_url]
    nodes = [
        subprocess.Popen(run, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for node in nodes:
        assert node.stdin is not None
        node.stdin.write("go\n")
        node.stdin.flush()
    done = [int(node.communicate(timeout=60)[0]) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0, 0]
    assert sum(done) == len(load(database_url.split(":")[0]))  # each of them once


def test_the_second_waits_for_the_first(mysql_url: str, mariadb: MariaDB) -> None:
    name = mysql_url.rpartition("/")[2]
    database = Database.from_url(mysql_url)
    lock = database.dialect.take_migration_lock
    assert lock is not None

    def hold(session: object) -> None:
        assert session.one(lock) == (1,)  # type: ignore[attr-defined]
        # Another node gets no lock now, and has made no table.
        assert mariadb.admin(lock.replace(", 1)", ", 0)"), database=name) == [(0,)]

    database.run(hold)


def test_the_second_waits_for_the_first_on_postgresql(postgres_url: str) -> None:
    first, second = Database.from_url(postgres_url), Database.from_url(postgres_url)
    lock = first.dialect.take_migration_lock
    assert lock is not None

    def hold(session: Session) -> None:
        assert session.one(lock) == (1,)
        assert second.run(lambda other: other.one(lock)) == (0,)

    first.run(hold)
    # The lock belongs to the transaction.
    assert second.run(lambda session: session.one(lock)) == (1,)


def test_a_node_without_the_lock_reports_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_LOCK_ATTEMPTS", 1)
    first, second = Database.from_url(postgres_url), Database.from_url(postgres_url)
    lock = first.dialect.take_migration_lock
    assert lock is not None

    def hold(session: Session) -> None:
        session.one(lock)
        with pytest.raises(StoreError, match="another node is migrating"):
            Migrator(second).migrate()

    first.run(hold)
    assert Migrator(second).migrate()


def test_each_migration_is_a_transaction(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.from_url(postgres_url)
    known = load("postgresql")
    good = Migration(len(known) + 1, "good", "CREATE TABLE good (a INTEGER);")
    bad = Migration(len(known) + 2, "bad", "CREATE TABLE bad (a INTEGER);\nnonsense;")
    monkeypatch.setattr(migrate, "load", lambda _: [*known, good, bad])
    with pytest.raises(StoreError):
        Migrator(database).migrate()
    assert [status.name for status in Migrator(database).pending()] == ["bad"]
    assert database.run(lambda session: (session.has_table("good"), session.has_table("bad"))) == (
        True,
        False,
    )


def test_a_migration_that_fails_is_not_recorded_and_can_be_mended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.from_url(database_url)
    known = load(database.dialect.name)
    number = len(known) + 1
    broken = Migration(number, "broken", "CREATE TABLE IF NOT EXISTS extra (a INTEGER);\nnonsense;")
    monkeypatch.setattr(migrate, "load", lambda _: [*known, broken])
    with pytest.raises(StoreError, match=r"^$"):
        Migrator(database).migrate()
    mended = Migration(number, "mended", "CREATE TABLE IF NOT EXISTS extra (a INTEGER);")
    monkeypatch.setattr(migrate, "load", lambda _: [*known, mended])
    assert Migrator(database).migrate()[-1].name == "mended"


def test_statements_are_cut_at_line_ends_and_comments_dropped() -> None:
    sql = "-- one; two;\nCREATE TABLE a (b TEXT DEFAULT 'x;y');  \n\n-- end\nSELECT 1;\n"
    assert Migration(1, "x", sql).statements == [
        "CREATE TABLE a (b TEXT DEFAULT 'x;y')",
        "SELECT 1",
    ]


@pytest.mark.parametrize("names", [["0002_x.sql"], ["0001_x.sql", "0003_y.sql"], ["1_x.sql"]])
def test_gaps_and_odd_names_are_refused(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sqlite").mkdir()
    for name in names:
        (tmp_path / "sqlite" / name).write_text("SELECT 1;")
    monkeypatch.setattr(migrate, "_FOLDER", tmp_path)
    with pytest.raises(ValueError, match="numbered"):
        load("sqlite")


def test_every_dialect_has_the_same_migrations() -> None:
    histories = {tuple((m.number, m.name) for m in load(name)) for name in DIALECTS}
    assert len(histories) == 1
    assert histories.pop()


def test_schema_sql_is_what_the_migrations_make() -> None:
    assert (ROOT / "schema.sql").read_text(encoding="utf-8") == schema_sql()


SHAPE = {
    "tables": "table_name, engine, table_collation",
    "columns": (
        "table_name, ordinal_position, column_name, column_default, is_nullable, column_type, "
        "character_set_name, collation_name, column_key, extra"
    ),
    "statistics": "table_name, index_name, seq_in_index, column_name, non_unique, sub_part",
    "key_column_usage": (
        "constraint_name, table_name, column_name, referenced_table_name, referenced_column_name"
    ),
    "referential_constraints": "constraint_name, table_name, update_rule, delete_rule",
}


def shape(server: MariaDB, name: str) -> dict[str, list[object]]:
    return {
        table: server.admin(
            f"SELECT {columns} FROM information_schema.{table} WHERE "
            + ("constraint_schema" if table == "referential_constraints" else "table_schema")
            + f" = %s ORDER BY {columns}",
            (name,),
        )
        for table, columns in SHAPE.items()
    }


def test_schema_sql_and_the_migrations_make_the_same(mysql_url: str, mariadb: MariaDB) -> None:
    migrated = mysql_url.rpartition("/")[2]
    Migrator(Database.from_url(mysql_url)).migrate()
    loaded = mariadb.create_database()
    text = (ROOT / "schema.sql").read_text(encoding="utf-8")
    database = Database.from_url(mariadb.url(loaded))

    def load_file(session: Session) -> None:  # on one connection, as the client program does
        for statement in Migration(0, "schema", text).statements:
            session.execute(statement)

    database.run(load_file)
    assert shape(mariadb, loaded) == shape(mariadb, migrated)
    assert {row[0] for row in shape(mariadb, loaded)["tables"]} == {  # type: ignore[index]
        "projects",
        "tokens",
        "schema_migrations",
        "usage_hourly",
        "usage_positions",
        "audit_events",
        "audit_chain",
        "leases",
        "counted_ids",
        "cache_purges",
        "providers",
        "provider_keys",
        "mappings",
        "provider_key_health",
        "revisions",
        "installation_secrets",
    }
    check_schema(database)
    assert Migrator(database).migrate() == []
    database.close()
    mariadb.drop_database(loaded)
