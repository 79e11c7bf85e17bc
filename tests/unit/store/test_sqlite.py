"""SQLite: the file, its thread, and what happens when others hold the lock."""

import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxy.core.errors import StoreError
from proxy.store.database import Database, Session
from proxy.store.dialects import ReadOnly
from proxy.store.migrate import load
from proxy.store.sqlite import path_from_url
from tests.support.paths import ROOT
from tests.support.wait import wait_until


def table(database: Database) -> None:
    database.run(lambda session: session.execute("CREATE TABLE t (a INTEGER)"))


def count(database: Database) -> int:
    row = database.run(lambda session: session.one("SELECT COUNT(*) FROM t"), readonly=True)
    assert row is not None
    return int(row[0])


def insert(session: Session) -> None:
    session.execute("INSERT INTO t VALUES (1)")


def test_urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert path_from_url("sqlite:////var/lib/proxy.db") == Path("/var/lib/proxy.db")
    assert path_from_url("sqlite:///data/a%20b.db") == tmp_path / "data/a b.db"
    assert path_from_url("sqlite:///./data/x.db") == tmp_path / "data/x.db"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite://data/x.db",
        "sqlite:///:memory:",
        "sqlite:///x.db?mode=ro",
        "sqlite:///x%00.db",
        "sqlite:///data/",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:////absolute"):
        Database.from_url(url)


def test_only_the_owner_may_read_folder_and_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "proxy.db"
    database = Database.from_url(f"sqlite:///{path}")
    table(database)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    database.close()
    assert [file.name for file in path.parent.iterdir()] == ["proxy.db"]


def test_the_settings_of_the_connection(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url)

    def pragma(name: str) -> Any:
        return database.run(lambda session: session.one(f"PRAGMA {name}"), readonly=True)

    assert pragma("journal_mode") == ("wal",)
    assert pragma("foreign_keys") == (1,)
    assert pragma("synchronous") == (2,)


def test_a_file_that_cannot_be_created_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        Database.from_url(f"sqlite:///{tmp_path}/file/proxy.db").check()
    assert isinstance(caught.value.__cause__, OSError)


def test_the_event_loop_runs_while_another_process_holds_the_lock(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url, statement_timeout=1.0)
    table(database)
    other = sqlite3.connect(path_from_url(sqlite_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            gevent.sleep(0.01)
            ticks += 1

    ticker = gevent.spawn(tick)
    with pytest.raises(StoreError):
        database.run(insert)
    ticker.kill()
    assert ticks > 10
    assert count(database) == 0
    other.execute("ROLLBACK")
    database.run(insert)
    assert count(database) == 1
    other.close()


def test_reading_waits_for_no_writer(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url)
    table(database)
    other = sqlite3.connect(path_from_url(sqlite_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO t VALUES (1)")
    assert count(database) == 0
    other.close()


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"


def test_work_that_takes_too_long_is_interrupted_and_rolled_back(sqlite_url: str) -> None:
    patient = Database.from_url(sqlite_url)
    table(patient)

    def work(session: Session) -> None:
        insert(session)
        session.one(ENDLESS)

    with pytest.raises(StoreError, match="in time"):
        Database.from_url(sqlite_url, statement_timeout=0.3).run(work)
    assert count(patient) == 0


def test_the_work_of_a_killed_greenlet_is_rolled_back(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url)
    table(database)

    def work(session: Session) -> None:
        insert(session)
        session.one(ENDLESS)

    job = gevent.spawn(database.run, work)
    gevent.sleep(0.1)
    job.kill()
    assert count(database) == 0


def test_cancelled_work_does_not_commit(sqlite_url: str) -> None:
    # It swallows the interruption and returns, which is still too late.
    patient = Database.from_url(sqlite_url)
    table(patient)

    def work(session: Session) -> None:
        insert(session)
        with pytest.raises(StoreError):
            session.one(ENDLESS)

    with pytest.raises(StoreError):
        Database.from_url(sqlite_url, statement_timeout=0.2).run(work)
    assert count(patient) == 0


@pytest.mark.slow
def test_waiting_for_the_thread_is_bounded(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url, wait_timeout=0.1, statement_timeout=1.0)
    table(database)
    busy = gevent.spawn(database.run, lambda session: session.one(ENDLESS))
    gevent.sleep(0)
    with gevent.Timeout(0.9), pytest.raises(StoreError, match="busy"):
        database.check()
    with pytest.raises(StoreError):
        busy.get()
    wait_until(lambda: _responds(database))


def _responds(database: Database) -> bool:
    """The thread needs a moment to end a statement."""
    try:
        database.check()
    except StoreError:
        return False
    return True


UNPATCHED = """
import sys
from gevent import monkey
assert not monkey.saved
from proxy.store.database import Database
from proxy.store.migrate import Migrator, check_schema
database = Database.from_url(sys.argv[1])
print(len(Migrator(database).migrate()))
check_schema(database)
database.close()
assert not monkey.saved
"""


def test_works_without_gevent_s_patches(sqlite_url: str) -> None:
    run = [sys.executable, "-c", UNPATCHED, sqlite_url]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"{len(load('sqlite'))}\n"


WRITER = """
import sys
from proxy.store.database import Database
database = Database.from_url(sys.argv[1])
def work(session):
    row = session.one("SELECT a FROM t")
    session.execute("UPDATE t SET a = ?", (row[0] + 1,))
for _ in range(50):
    database.run(work)
"""


def test_processes_that_read_then_write_do_not_lose_or_fail(sqlite_url: str) -> None:
    database = Database.from_url(sqlite_url)
    table(database)
    database.run(insert)
    run = [sys.executable, "-c", WRITER, sqlite_url]
    writers = [subprocess.Popen(run, cwd=ROOT) for _ in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert database.run(lambda session: session.one("SELECT a FROM t")) == (151,)


OPENER = """
import sys, time
from proxy.store.database import Database
time.sleep(max(0, float(sys.argv[2]) - time.time()))
Database.from_url(sys.argv[1]).check()
"""


@pytest.mark.slow
def test_a_new_file_may_be_opened_by_several_at_once(sqlite_url: str) -> None:
    run = [sys.executable, "-c", OPENER, sqlite_url, str(time.time() + 1.5)]
    openers = [subprocess.Popen(run, cwd=ROOT) for _ in range(4)]
    assert [opener.wait(60) for opener in openers] == [0, 0, 0, 0]


def test_a_read_only_connection_is_replaced(sqlite_url: str) -> None:
    """Its file may have been replaced, or may be writable again."""
    database = Database.from_url(sqlite_url)
    database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))
    database.run(lambda session: session.execute("PRAGMA query_only = ON"), readonly=True)
    with pytest.raises(ReadOnly):
        database.run(lambda session: session.execute("INSERT INTO t VALUES (1)"))
    database.run(lambda session: session.execute("INSERT INTO t VALUES (1)"))
    database.close()
