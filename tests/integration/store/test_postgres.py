"""PostgreSQL: URLs, TLS, the transaction's own settings, and a server that is stuck.

The pool is in ``test_pooled.py``.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import psycopg
import pytest
from psycopg import waiting

from proxy.core.errors import StoreError
from proxy.store.database import Database, Session
from proxy.store.migrate import Migrator
from proxy.store.postgres import options_from_url
from tests.support.paths import ROOT
from tests.support.services import Postgres
from tests.support.services.certificate import write_certificate


class TestUrl:
    def test_all_parts(self, tmp_path: Path) -> None:
        ca = tmp_path / "ca.pem"
        ca.write_text("")
        options = options_from_url(
            "postgresql://us%40er:p%2Fw%C3%A9%3A@[::1]:5433/na%2Dme"
            f"?sslmode=require&sslrootcert={ca}&channel_binding=require"
        )
        assert options == {
            "host": "::1",
            "port": "5433",
            "user": "us@er",
            "password": "p/wé:",
            "dbname": "na-me",
            "sslmode": "require",
            "sslrootcert": str(ca),
            "channel_binding": "require",
        }

    def test_optional_parts(self) -> None:
        assert options_from_url("postgresql://db/name") == {
            "host": "db",
            "port": "5432",
            "dbname": "name",
        }
        socket_only = options_from_url("postgresql://root@/name?host=/run/postgresql")
        assert socket_only["host"] == "/run/postgresql"

    def test_a_ca_turns_on_verification(self, tmp_path: Path) -> None:
        ca = tmp_path / "ca.pem"
        ca.write_text("")
        assert options_from_url(f"postgresql://h/n?sslrootcert={ca}")["sslmode"] == "verify-full"
        with pytest.raises(ValueError, match="needs"):
            options_from_url("postgresql://h/n?sslmode=verify-full")
        with pytest.raises(ValueError, match="sslrootcert"):
            options_from_url("postgresql://h/n?sslrootcert=/nowhere.pem")

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://user:s3cret@host",
            "postgresql://user:s3cret@host/",
            "postgresql://user:s3cret@host/a/b",
            "postgresql://user:s3cret@/name",
            "postgresql://user:s3cret@host:port/name",
            "postgresql://user:s3/cret@host:5432/name",
            "postgresql://user:s3cret@host:99999/name",
            "postgresql://user:s3cret@host,other/name",
            "postgresql://user:s3cret@%2Frun/name",
            "postgresql://user:s3cret@host/na%00me",
            "postgresql://user:s3cret@host/name?sslmode=perhaps",
            "postgresql://user:s3cret@host/name?channel_binding=no",
            "postgresql://user:s3cret@host/name?host=/run",
            "postgresql://user:s3cret@/name?host=other",
            "postgresql://user:s3cret@host/name?options=-cwork_mem%3D1",
            "postgresql://user:s3cret@host/name?sslmode",
            "postgresql://user:s3cret@[::1/name",
            "postgresql://user:s3cret@host/name#x",
        ],
    )
    def test_malformed_ones_are_refused_without_showing_them(self, url: str) -> None:
        with pytest.raises(ValueError, match="postgresql://user:password@host") as caught:
            Database.from_url(url)
        assert "s3" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_socket_folder_as_host(self, postgres: Postgres, postgres_url: str) -> None:
        name = postgres_url.rpartition("/")[2]
        url = f"postgresql://postgres@:{postgres.port}/{name}?host={postgres.folder}"
        Database.from_url(url).check()


class TestTls:
    def used(self, url: str) -> Any:
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        row = Database.from_url(url).run(lambda session: session.one(query))
        assert row is not None
        return row[0]

    def test_tls_is_used_when_the_server_has_it(self, postgres_url: str) -> None:
        assert self.used(postgres_url) is True
        assert self.used(f"{postgres_url}?sslmode=disable") is False

    def test_tls_is_verified_with_a_ca(self, postgres_url: str, postgres: Postgres) -> None:
        url = postgres_url.replace("127.0.0.1", "localhost") + f"?sslrootcert={postgres.ca_file}"
        assert self.used(url) is True

    def test_a_certificate_for_another_name_is_refused(
        self, postgres_url: str, postgres: Postgres
    ) -> None:
        with pytest.raises(StoreError):
            self.used(f"{postgres_url}?sslrootcert={postgres.ca_file}")

    def test_a_certificate_of_another_ca_is_refused(
        self, postgres_url: str, tmp_path: Path
    ) -> None:
        other, _ = write_certificate(tmp_path)
        with pytest.raises(StoreError):
            self.used(postgres_url.replace("127.0.0.1", "localhost") + f"?sslrootcert={other}")


class TestTransaction:
    def test_settings_are_made_within_the_transaction(self, postgres_url: str) -> None:
        database = Database.from_url(postgres_url, pool_size=1, statement_timeout=5)

        def settings(session: Session) -> list[Any]:
            names = (
                "transaction_isolation",  # the test server's default is another
                "transaction_read_only",
                "statement_timeout",
                "idle_in_transaction_session_timeout",
                "client_encoding",
            )
            return [session.all(f"SHOW {name}")[0][0] for name in names]

        written = ["read committed", "off", "4s", "4s", "UTF8"]
        assert database.run(settings) == written
        assert database.run(settings, readonly=True)[:2] == ["read committed", "on"]
        assert database.run(settings, timeout=100)[2] == "80s"
        assert database.run(settings) == written

    def test_a_failed_statement_cannot_be_committed(self, postgres_url: str) -> None:
        database = Database.from_url(postgres_url, pool_size=1)
        database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))

        def work(session: Session) -> None:
            session.execute("INSERT INTO t VALUES (1)")
            with pytest.raises(StoreError):
                session.execute("nonsense")

        with pytest.raises(StoreError):
            database.run(work)
        assert database.run(lambda session: session.all("SELECT a FROM t")) == []

    def test_a_statement_cancelled_by_the_server_keeps_the_connection(
        self, postgres_url: str
    ) -> None:
        database = Database.from_url(postgres_url, pool_size=1, statement_timeout=0.3)
        query = "SELECT pg_backend_pid()"
        before = database.run(lambda session: session.one(query))
        with pytest.raises(StoreError) as caught:
            database.run(lambda session: session.one("SELECT pg_sleep(3)"))
        assert isinstance(caught.value.__cause__, psycopg.errors.QueryCanceled)
        assert database.run(lambda session: session.one(query)) == before

    def test_waiting_for_a_lock_is_bounded(self, postgres_url: str) -> None:
        database = Database.from_url(postgres_url, statement_timeout=0.5)
        database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))
        database.run(lambda session: session.execute("INSERT INTO t VALUES (1)"))

        def hold(session: Session) -> None:
            session.execute("UPDATE t SET a = 2")
            with gevent.Timeout(3), pytest.raises(StoreError):
                database.run(lambda other: other.execute("UPDATE t SET a = 3"), timeout=0.2)

        database.run(hold)
        assert database.run(lambda session: session.one("SELECT a FROM t")) == (2,)

    def test_the_locks_of_a_frozen_node_are_freed(self, postgres_url: str) -> None:
        database = Database.from_url(postgres_url, statement_timeout=0.3)
        database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))
        database.run(lambda session: session.execute("INSERT INTO t VALUES (1)"))

        def freeze(session: Session) -> None:
            session.execute("UPDATE t SET a = 2")
            gevent.sleep(0.6)
            assert database.run(lambda other: other.execute("UPDATE t SET a = 3")) == 1

        with pytest.raises(StoreError):
            database.run(freeze)
        assert database.run(lambda session: session.one("SELECT a FROM t")) == (3,)

    @pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
    def test_an_encoding_that_cannot_hold_every_name_is_refused(
        self, postgres: Postgres, closing: None, encoding: str
    ) -> None:
        name = postgres.create_database(f"ENCODING {encoding} LOCALE 'C'")
        with pytest.raises(StoreError, match="UTF8"):
            Database.from_url(postgres.url(name)).check()
        postgres.drop_database(name)


class TestStuck:
    def test_a_stopped_server_fails_fast(self, postgres_url: str) -> None:
        """The kernel accepts the connection, and the server never responds."""
        database = Database.from_url(
            postgres_url, pool_size=2, connect_timeout=0.3, statement_timeout=0.3, wait_timeout=0.3
        )
        pids: list[int] = []

        def stop(session: Session) -> None:
            row = session.one("SELECT pg_backend_pid()")
            assert row is not None
            pids.append(row[0])
            os.kill(row[0], signal.SIGSTOP)
            session.one("SELECT 1")

        try:
            began = time.monotonic()
            with pytest.raises(StoreError):
                database.run(stop)
            assert time.monotonic() - began < 1
            database.check()  # on another connection
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def test_a_pooled_connection_that_is_stuck_is_replaced(self, postgres_url: str) -> None:
        database = Database.from_url(
            postgres_url, pool_size=1, connect_timeout=2, statement_timeout=0.3
        )
        query = "SELECT pg_backend_pid()"
        row = database.run(lambda session: session.one(query))
        assert row is not None
        os.kill(row[0], signal.SIGSTOP)
        try:
            assert database.run(lambda session: session.one(query)) != row
        finally:
            os.kill(row[0], signal.SIGCONT)


def test_psycopg_waits_through_gevent() -> None:
    assert waiting.wait is waiting.wait_poll


def test_psycopg_imported_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "wait", waiting.wait_c)
    with pytest.raises(RuntimeError, match="before gevent"):
        Database.from_url("postgresql://u@h/n")


UNPATCHED = """
import sys, time
from gevent import monkey
assert not monkey.saved
from proxy.core.errors import StoreError
from proxy.store.database import Database
from proxy.store.migrate import Migrator, check_schema
database = Database.from_url(sys.argv[1], statement_timeout=0.5)
print(len(Migrator(database).migrate()))
check_schema(database)
try:
    database.run(lambda session: session.one("SELECT pg_sleep(9)"))
except StoreError:
    print("canceled")
database.close()
assert not monkey.saved
"""


def test_works_without_gevent_s_patches(postgres_url: str) -> None:
    run = [sys.executable, "-c", UNPATCHED, postgres_url]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split()[1:] == ["canceled"]
    assert int(done.stdout.split()[0]) == len(Migrator(Database.from_url(postgres_url)).status())


def test_tables_of_another_schema_are_ignored(postgres_url: str, postgres: Postgres) -> None:
    parts = urlsplit(postgres_url)
    name = parts.path[1:]
    Migrator(Database.from_url(postgres_url)).migrate()
    postgres.admin("CREATE SCHEMA own", database=name)
    postgres.admin(f"ALTER DATABASE {name} SET search_path = own, public")
    database = Database.from_url(postgres_url)
    assert len(Migrator(database).pending()) == len(Migrator(database).migrate())
    assert Migrator(database).pending() == []
