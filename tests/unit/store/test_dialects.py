"""Dialects: placeholders, and which driver error means what."""

import sqlite3

import psycopg
import pymysql
import pytest

from proxy.core.errors import StoreError
from proxy.store.dialects import (
    DIALECTS,
    Conflict,
    Deadlock,
    Dialect,
    MysqlDialect,
    PostgresDialect,
    ReadOnly,
    SqliteDialect,
)


def test_the_table_names_each_part() -> None:
    assert {name: make().name for name, make in DIALECTS.items()} == {
        "sqlite": "sqlite",
        "mysql": "mysql",
        "postgresql": "postgresql",
    }


def test_placeholders() -> None:
    assert SqliteDialect().sql("a = ? AND b % 2 = ?") == "a = ? AND b % 2 = ?"
    assert MysqlDialect().sql("a = ? AND b % 2 = ?") == "a = %s AND b %% 2 = %s"
    assert PostgresDialect().sql("a = ? AND b % 2 = ?") == "a = %s AND b %% 2 = %s"


def test_writers_lock_from_the_start() -> None:
    assert SqliteDialect().begin(readonly=False) == "BEGIN IMMEDIATE"
    assert SqliteDialect().begin(readonly=True) == "BEGIN DEFERRED"
    assert MysqlDialect().begin(readonly=True) == "START TRANSACTION READ ONLY"
    # Refused by a read-only server before anything was executed.
    assert MysqlDialect().begin(readonly=False) == "START TRANSACTION READ WRITE"


@pytest.mark.parametrize("code", [1290, 1792, 1836, 1047])
@pytest.mark.parametrize("kind", [pymysql.err.OperationalError, pymysql.err.InternalError])
def test_read_only_errors_of_mysql(kind: type[pymysql.err.MySQLError], code: int) -> None:
    translated = MysqlDialect().translate(kind(code, "with the --read-only option at db.internal"))
    assert type(translated) is ReadOnly
    assert "db.internal" not in str(translated)
    assert translated.code == "store_unavailable"


def test_read_only_errors_of_other_servers() -> None:
    for error in (
        psycopg.errors.ReadOnlySqlTransaction("cannot execute UPDATE in a read-only transaction"),
        psycopg.errors.FeatureNotSupported("cannot set transaction read-write mode in recovery"),
    ):
        assert type(PostgresDialect().translate(error)) is ReadOnly
    with sqlite3.connect("file:nothing?mode=memory&cache=private", uri=True) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("PRAGMA query_only = ON")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    assert type(SqliteDialect().translate(caught.value)) is ReadOnly


@pytest.mark.parametrize(
    ("error", "conflict"),
    [
        (pymysql.err.IntegrityError(1062, "Duplicate entry 'secret'"), True),
        (pymysql.err.IntegrityError(1452, "foreign key"), False),
        (pymysql.err.OperationalError(2013, "Lost connection"), False),
        (pymysql.err.InterfaceError(0, ""), False),
        (pymysql.err.IntegrityError(), False),
    ],
)
def test_mysql_errors(error: Exception, conflict: bool) -> None:
    translated = MysqlDialect().translate(error)
    assert type(translated) is (Conflict if conflict else StoreError)
    assert str(translated) == ""


@pytest.mark.parametrize(
    ("error", "conflict"),
    [
        (psycopg.errors.UniqueViolation("Key (name)=(secret) already exists."), True),
        (psycopg.errors.ForeignKeyViolation("foreign key"), False),
        (psycopg.errors.QueryCanceled("statement timeout"), False),
        (psycopg.OperationalError("server closed the connection"), False),
    ],
)
def test_postgresql_errors(error: Exception, conflict: bool) -> None:
    translated = PostgresDialect().translate(error)
    assert type(translated) is (Conflict if conflict else StoreError)
    assert str(translated) == ""


@pytest.mark.parametrize(
    ("dialect", "error"),
    [
        (MysqlDialect(), pymysql.err.OperationalError(1213, "Deadlock found: try again")),
        (PostgresDialect(), psycopg.errors.DeadlockDetected("deadlock detected")),
    ],
)
def test_deadlocks(dialect: Dialect, error: Exception) -> None:
    assert type(dialect.translate(error)) is Deadlock


@pytest.mark.parametrize(
    ("sql", "conflict"),
    [
        ("INSERT INTO t (id, u) VALUES (1, 9)", True),
        ("INSERT INTO t (id, u) VALUES (2, 1)", True),
        ("INSERT INTO t (id, u, n) VALUES (2, 2, NULL)", False),
        ("INSERT INTO nowhere VALUES (1)", False),
    ],
)
def test_sqlite_errors(sql: str, conflict: bool) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id TEXT PRIMARY KEY, u UNIQUE, n NOT NULL DEFAULT 1)")
    connection.execute("INSERT INTO t (id, u) VALUES (1, 1)")
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(sql)
    connection.close()
    assert type(SqliteDialect().translate(caught.value)) is (Conflict if conflict else StoreError)
