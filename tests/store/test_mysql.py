"""MySQL: URLs, the pool, and connections that die at a bad moment."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
import pytest

from proxy.errors import StoreError
from proxy.store.database import Database, Session
from proxy.store.mysql import options_from_url
from tests.services import MariaDB, write_certificate


def slowly(session: Session) -> Any:
    return session.one("SELECT CONNECTION_ID(), SLEEP(0.1)")


def connection_id(database: Database) -> int:
    row = database.run(lambda session: session.one("SELECT CONNECTION_ID()"))
    assert row is not None
    return int(row[0])


def seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


class TestUrl:
    def test_all_parts(self) -> None:
        options = options_from_url("mysql://us%40er:p%2Fw%C3%A9%3A@[::1]:3307/na%2Dme?charset=utf8")
        assert options == {
            "host": "::1",
            "port": 3307,
            "user": "us@er",
            "password": "p/wé:".encode(),
            "database": "na-me",
        }

    def test_what_may_be_missing(self) -> None:
        options = options_from_url("mysql://root@db/name")
        assert (options["port"], options["password"]) == (3306, b"")
        socket_only = options_from_url("mysql://root@/name?unix_socket=/run/mysqld.sock")
        assert socket_only["unix_socket"] == "/run/mysqld.sock"

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://user:s3cret@host",
            "mysql://user:s3cret@host/",
            "mysql://user:s3cret@host/a/b",
            "mysql://user:s3cret@/name",
            "mysql://user:s3cret@host:port/name",
            "mysql://user:s3/cret@host:3306/name",
            "mysql://user:s3cret@host:99999/name",
            "mysql://user:s3cret@host/name?charset=latin1",
            "mysql://user:s3cret@host/name?local_infile=1",
            "mysql://user:s3cret@host/name?charset",
            "mysql://user:s3cret@[::1/name",
            "mysql://user:s3cret@host/name#x",
        ],
    )
    def test_malformed_ones_are_refused_without_showing_them(self, url: str) -> None:
        with pytest.raises(ValueError, match="mysql://user:password@host") as caught:
            Database.from_url(url)
        assert "s3" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_ca_file_that_is_not_there(self) -> None:
        with pytest.raises(ValueError, match="ssl_ca"):
            options_from_url("mysql://root@db/name?ssl_ca=/nowhere.pem")


class TestTls:
    def cipher(self, url: str) -> Any:
        query = "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
        row = Database.from_url(url).run(lambda session: session.one(query))
        assert row is not None
        return row[1]

    def test_is_used_when_the_server_has_it(self, mysql_url: str) -> None:
        assert self.cipher(mysql_url)

    def test_is_verified_with_a_ca(self, mysql_url: str, mariadb: MariaDB) -> None:
        url = mysql_url.replace("127.0.0.1", "localhost") + f"?ssl_ca={mariadb.ca_file}"
        assert self.cipher(url)

    def test_a_certificate_for_another_name_is_refused(
        self, mysql_url: str, mariadb: MariaDB
    ) -> None:
        with pytest.raises(StoreError):
            self.cipher(f"{mysql_url}?ssl_ca={mariadb.ca_file}")

    def test_a_certificate_of_another_ca_is_refused(self, mysql_url: str, tmp_path: Path) -> None:
        other, _ = write_certificate(tmp_path)
        with pytest.raises(StoreError):
            self.cipher(mysql_url.replace("127.0.0.1", "localhost") + f"?ssl_ca={other}")


class TestPool:
    def test_ten_slow_queries_run_side_by_side(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url, pool_size=10)

        def all_at_once() -> None:
            jobs = [gevent.spawn(database.run, slowly) for _ in range(10)]
            gevent.joinall(jobs, raise_error=True)
            assert len({job.value[0] for job in jobs}) == 10

        one = seconds(lambda: database.run(slowly))
        cold = seconds(all_at_once)
        warm = seconds(all_at_once)
        assert warm < 4 * one
        assert cold < 6 * one  # connecting included

    def test_more_than_the_pool_holds_wait_their_turn(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url, pool_size=2)
        jobs = [gevent.spawn(database.run, slowly) for _ in range(6)]
        gevent.joinall(jobs, raise_error=True)
        assert len({job.value[0] for job in jobs}) == 2

    def test_the_wait_is_bounded(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url, pool_size=1, wait_timeout=0.02)
        busy = gevent.spawn(database.run, slowly)
        gevent.sleep(0)
        with pytest.raises(StoreError, match="busy"):
            database.check()
        busy.get()
        database.check()

    def test_a_connection_is_used_again(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url)
        assert connection_id(database) == connection_id(database)

    def test_a_connection_comes_back_after_an_error_too(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url, pool_size=1)
        before = connection_id(database)
        for _ in range(3):
            with pytest.raises(StoreError):
                database.run(lambda session: session.execute("nonsense"))
        assert connection_id(database) == before

    def test_close_ends_idle_connections(self, mysql_url: str, mariadb: MariaDB) -> None:
        database = Database.from_url(mysql_url)
        mine = connection_id(database)
        database.close()
        query = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %s"
        with gevent.Timeout(5):
            while mariadb.admin(query, (mine,)) != [(0,)]:
                gevent.sleep(0.01)

    def test_the_session_is_strict_and_speaks_utf8(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url)
        query = "SELECT @@sql_mode, @@character_set_connection, @@collation_connection"
        row = database.run(lambda session: session.one(query))
        assert row is not None
        assert "STRICT_ALL_TABLES" in row[0]
        assert row[1:] == ("utf8mb4", "utf8mb4_bin")

    def test_readonly_work_cannot_write(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url)
        database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))
        with pytest.raises(StoreError):
            database.run(lambda session: session.execute("INSERT INTO t VALUES (1)"), readonly=True)


class TestDeath:
    def test_connections_that_died_idle_are_replaced(
        self, mysql_url: str, mariadb: MariaDB
    ) -> None:
        database = Database.from_url(mysql_url, pool_size=3)
        jobs = [gevent.spawn(database.run, slowly) for _ in range(3)]
        gevent.joinall(jobs, raise_error=True)
        for job in jobs:
            mariadb.admin(f"KILL {job.value[0]}")
        runs = 0

        def work(session: Session) -> Any:
            nonlocal runs
            runs += 1
            return session.one("SELECT 1")

        assert [database.run(work) for _ in range(6)] == [(1,)] * 6
        assert runs == 6

    def test_work_that_had_begun_is_not_repeated(self, mysql_url: str, mariadb: MariaDB) -> None:
        database = Database.from_url(mysql_url, pool_size=1)
        database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))
        runs = 0

        def work(session: Session) -> None:
            nonlocal runs
            runs += 1
            row = session.one("SELECT CONNECTION_ID()")
            assert row is not None
            session.execute("INSERT INTO t VALUES (1)")
            mariadb.admin(f"KILL {row[0]}")
            session.execute("INSERT INTO t VALUES (2)")

        with pytest.raises(StoreError):
            database.run(work)
        assert runs == 1
        assert database.run(lambda session: session.all("SELECT a FROM t")) == []

    def test_a_killed_greenlet_s_connection_is_not_used_again(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url, pool_size=1)
        database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))
        before = connection_id(database)

        def work(session: Session) -> None:
            session.execute("INSERT INTO t VALUES (1)")
            session.one("SELECT SLEEP(5)")

        job = gevent.spawn(database.run, work)
        gevent.sleep(0.1)
        job.kill()
        assert connection_id(database) != before
        assert database.run(lambda session: session.one("SELECT 'x'")) == ("x",)
        assert database.run(lambda session: session.all("SELECT a FROM t")) == []

    def test_a_silent_statement_times_out_and_its_late_answer_is_not_read(
        self, mysql_url: str
    ) -> None:
        database = Database.from_url(mysql_url, pool_size=1, statement_timeout=0.2)
        with pytest.raises(StoreError):
            database.run(lambda session: session.one("SELECT SLEEP(0.5)"))
        assert database.run(lambda session: session.one("SELECT 'x'")) == ("x",)

    def test_long_work_may_have_its_own_patience(self, mysql_url: str) -> None:
        database = Database.from_url(mysql_url, statement_timeout=0.2)
        database.run(lambda session: session.one("SELECT SLEEP(0.5)"), timeout=5)

    def test_a_server_that_accepts_and_says_nothing(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            url = f"mysql://root@127.0.0.1:{server.getsockname()[1]}/x"
            database = Database.from_url(url, connect_timeout=0.2, statement_timeout=0.2)
            jobs = [gevent.spawn(database.check) for _ in range(10)]
            with gevent.Timeout(1.5):  # all at once: one after the other takes 2 s
                gevent.joinall(jobs)
        assert {type(job.exception) for job in jobs} == {StoreError}

    def test_a_server_that_is_not_there(self, mysql_url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(StoreError) as caught:
            Database.from_url(f"mysql://root@127.0.0.1:{port}/x").check()
        assert str(caught.value) == ""

    def test_a_wrong_password(self, mysql_url: str) -> None:
        parts = urlsplit(mysql_url)
        url = f"mysql://root:wrong@{parts.hostname}:{parts.port}{parts.path}"
        with pytest.raises(StoreError):
            Database.from_url(url).check()
