"""The database's entry: the backend of a URL, and errors before any I/O."""

import os
import subprocess
import sys

import pytest

from proxy.core.errors import StoreError
from proxy.store import database as database_module
from proxy.store.database import Conflict, Database, Session
from proxy.store.migrate import Migrator


@pytest.mark.parametrize("url", ["", "proxy.db", "oracle://u:secret@h/n", "http://[secret"])
def test_unknown_schemes_are_refused_without_showing_the_url(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite://, mysql://, postgresql://") as caught:
        Database.from_url(url)
    assert "secret" not in str(caught.value)


def test_making_a_database_does_no_io(tmp_path: os.PathLike[str]) -> None:
    Database.from_url(f"sqlite:///{tmp_path}/none/proxy.db").close()
    Database.from_url("mysql://nobody@192.0.2.1/none").close()
    Database.from_url("postgresql://nobody@192.0.2.1/none").close()
    assert not os.listdir(tmp_path)


def test_the_url_names_the_dialect(database_url: str) -> None:
    database = Database.from_url(database_url)
    assert database.dialect.name == database_url.split(":")[0]


def test_a_closed_database_is_refused(database_url: str) -> None:
    database = Database.from_url(database_url)
    database.check()
    database.close()
    database.close()
    with pytest.raises(StoreError, match="closed"):
        database.check()


def test_a_fork_does_not_inherit_a_used_database(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database.from_url(sqlite_url)
    database.check()
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="fork"):
        database.check()


def test_a_driver_is_imported_only_when_picked() -> None:
    code = (
        "import sys; from proxy.store.database import Database;"
        "Database.from_url('sqlite:///x.db');"
        "assert not {'pymysql', 'psycopg', 'dbutils'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_text_of_the_driver_stays_in_the_cause(database_url: str) -> None:
    database = Database.from_url(database_url)
    with pytest.raises(StoreError) as caught:
        database.run(lambda session: session.execute("SELECT secret FROM nowhere"))
    assert "nowhere" not in str(caught.value)
    assert "nowhere" in str(caught.value.__cause__)


class TestWritesThatFail:
    @pytest.fixture
    def database(self, migrated_url: str) -> Database:
        database = Database.from_url(migrated_url)
        Migrator(database).migrate()
        return database

    def test_the_check_passes_without_a_failure(self, database: Database) -> None:
        database.check_writes()

    def test_a_failed_write_counts_until_one_succeeds(self, database: Database) -> None:
        """A write that changes nothing succeeds on a full disk too."""

        def full(session: Session) -> None:
            raise StoreError

        with pytest.raises(StoreError):
            database.run(full, readonly=True)
        database.check_writes()
        with pytest.raises(StoreError):
            database.run(full)
        with pytest.raises(StoreError):
            database.check_writes()
        database.run(lambda session: session.execute("UPDATE tokens SET name = 'n'"))
        database.check_writes()

    def test_a_conflict_is_no_failure(self, database: Database) -> None:
        def conflict(session: Session) -> None:
            raise Conflict

        with pytest.raises(Conflict):
            database.run(conflict)
        database.check_writes()

    def test_an_old_failure_no_longer_counts(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(session: Session) -> None:
            raise StoreError

        with pytest.raises(StoreError):
            database.run(fail)
        monkeypatch.setattr(database_module, "_FAILED_SECONDS", 0.0)
        database.check_writes()
