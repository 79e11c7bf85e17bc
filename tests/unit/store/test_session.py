"""The session: parameters, rows, and the hook that stops cancelled work."""

import sqlite3
from collections.abc import Iterator

import pytest

from proxy.core.errors import StoreError
from proxy.store.dialects import SqliteDialect
from proxy.store.session import Session


@pytest.fixture
def cursor() -> Iterator[sqlite3.Cursor]:
    connection = sqlite3.connect(":memory:")
    yield connection.cursor()
    connection.close()


def test_rows_are_tuples_and_a_missing_row_is_none(cursor: sqlite3.Cursor) -> None:
    session = Session(cursor, SqliteDialect())
    assert session.all("SELECT ?, ?", (1, "a")) == [(1, "a")]
    assert session.one("SELECT 1 WHERE 1 = ?", (0,)) is None
    session.execute("CREATE TABLE t (a)")
    assert session.execute("INSERT INTO t VALUES (?), (?)", (1, 2)) == 2
    assert session.has_table("t")
    assert not session.has_table("u")


def test_errors_while_reading_rows_are_translated(cursor: sqlite3.Cursor) -> None:
    session = Session(cursor, SqliteDialect())
    # The second row overflows, which SQLite notices only when it is fetched.
    with pytest.raises(StoreError):
        session.all("SELECT 1 UNION ALL SELECT abs(-9223372036854775808)")


def test_the_hook_runs_before_each_statement(cursor: sqlite3.Cursor) -> None:
    def stop() -> None:
        raise StoreError("stop")

    with pytest.raises(StoreError, match="stop"):
        Session(cursor, SqliteDialect(), stop).execute("SELECT 1")
