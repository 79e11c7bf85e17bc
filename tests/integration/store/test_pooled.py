"""The pool under MySQL and PostgreSQL: bounded waits, and connections that break at any moment."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent
import pytest

from proxy.core.errors import StoreError
from proxy.store.database import Database, Session


@dataclass(frozen=True)
class Server:
    """One kind of database, with its own SQL for what the tests need."""

    url: str
    #: One row: the number of the connection.
    connection: str
    #: The same, and waits the seconds in the braces.
    sleep: str
    #: Ends the connection of a number.
    kill: Callable[[int], Any]
    #: One row: how many connections of a number there are.
    count: Callable[[int], int]

    def slowly(self, session: Session) -> Any:
        return session.one(self.sleep.format(0.1))

    def number(self, database: Database) -> int:
        row = database.run(lambda session: session.one(self.connection))
        assert row is not None
        return int(row[0])


@pytest.fixture(params=["mysql", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    url = request.getfixturevalue(f"{request.param}_url")
    if request.param == "mysql":
        mariadb = request.getfixturevalue("mariadb")
        listed = "SELECT COUNT(*) FROM information_schema.processlist WHERE id = %s"
        return Server(
            url,
            "SELECT CONNECTION_ID()",
            "SELECT CONNECTION_ID(), SLEEP({})",
            lambda number: mariadb.admin(f"KILL {number}"),
            lambda number: int(mariadb.admin(listed, (number,))[0][0]),
        )
    postgres = request.getfixturevalue("postgres")
    active = "SELECT COUNT(*) FROM pg_stat_activity WHERE pid = %s"
    return Server(
        url,
        "SELECT pg_backend_pid()",
        "SELECT pg_backend_pid(), pg_sleep({})",
        lambda number: postgres.admin("SELECT pg_terminate_backend(%s, 5000)", (number,)),
        lambda number: int(postgres.admin(active, (number,))[0][0]),
    )


def make_table(database: Database) -> None:
    database.run(lambda session: session.execute("CREATE TABLE t (a INT)"))


def seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


class TestPool:
    def test_ten_slow_queries_run_side_by_side(self, server: Server) -> None:
        def all_at_once(database: Database) -> None:
            jobs = [gevent.spawn(database.run, server.slowly) for _ in range(10)]
            gevent.joinall(jobs, raise_error=True)
            assert len({job.value[0] for job in jobs}) == 10

        cold, warm = [], []
        for _ in range(3):  # a busy machine slows one of them down, not all
            database = Database.from_url(server.url, pool_size=10)
            one = seconds(lambda database=database: database.run(server.slowly))
            cold.append(seconds(lambda database=database: all_at_once(database)) / one)
            warm.append(seconds(lambda database=database: all_at_once(database)) / one)
        assert min(warm) < 4
        assert min(cold) < 6  # connecting included

    def test_slow_queries_and_connects_do_not_block_others(self, server: Server) -> None:
        database = Database.from_url(server.url)
        longest = 0.0

        def tick() -> None:
            nonlocal longest
            before = time.monotonic()
            while True:
                gevent.sleep(0.005)
                longest = max(longest, time.monotonic() - before)
                before = time.monotonic()

        ticker = gevent.spawn(tick)
        gevent.sleep(0)
        for _ in range(2):
            database.run(lambda session: session.one(server.sleep.format(0.4)))
        ticker.kill()
        assert longest < 0.2

    def test_work_beyond_the_pool_size_waits(self, server: Server) -> None:
        database = Database.from_url(server.url, pool_size=2)
        jobs = [gevent.spawn(database.run, server.slowly) for _ in range(6)]
        gevent.joinall(jobs, raise_error=True)
        assert len({job.value[0] for job in jobs}) == 2

    def test_the_wait_is_bounded(self, server: Server) -> None:
        database = Database.from_url(server.url, pool_size=1, wait_timeout=0.02)
        busy = gevent.spawn(database.run, server.slowly)
        gevent.sleep(0)
        with pytest.raises(StoreError, match="busy"):
            database.check()
        busy.get()
        database.check()

    def test_a_connection_is_reused(self, server: Server) -> None:
        database = Database.from_url(server.url)
        assert server.number(database) == server.number(database)

    def test_a_connection_is_returned_after_an_error(self, server: Server) -> None:
        database = Database.from_url(server.url, pool_size=1)
        before = server.number(database)
        for _ in range(3):
            with pytest.raises(StoreError):
                database.run(lambda session: session.execute("nonsense"))
        assert server.number(database) == before

    def test_close_ends_idle_connections_and_those_in_use_later(self, server: Server) -> None:
        database = Database.from_url(server.url)
        jobs = [gevent.spawn(database.run, server.slowly) for _ in range(2)]
        gevent.joinall(jobs, raise_error=True)
        busy = gevent.spawn(database.run, server.slowly)
        gevent.sleep(0.01)
        database.close()
        numbers = {job.value[0] for job in jobs}
        assert busy.get()[0] in numbers
        assert len(numbers) == 2
        with gevent.Timeout(5):
            while any(server.count(number) for number in numbers):
                gevent.sleep(0.01)

    def test_readonly_work_cannot_write(self, server: Server) -> None:
        database = Database.from_url(server.url)
        make_table(database)
        with pytest.raises(StoreError):
            database.run(lambda session: session.execute("INSERT INTO t VALUES (1)"), readonly=True)


class TestDeath:
    def test_connections_that_broke_while_idle_are_replaced(self, server: Server) -> None:
        database = Database.from_url(server.url, pool_size=3)
        jobs = [gevent.spawn(database.run, server.slowly) for _ in range(3)]
        gevent.joinall(jobs, raise_error=True)
        for job in jobs:
            server.kill(job.value[0])
        runs = 0

        def work(session: Session) -> Any:
            nonlocal runs
            runs += 1
            return session.one("SELECT 1")

        assert [database.run(work) for _ in range(6)] == [(1,)] * 6
        assert runs == 6

    def test_work_that_had_begun_is_not_repeated(self, server: Server) -> None:
        database = Database.from_url(server.url, pool_size=1)
        make_table(database)
        runs = 0

        def work(session: Session) -> None:
            nonlocal runs
            runs += 1
            row = session.one(server.connection)
            assert row is not None
            session.execute("INSERT INTO t VALUES (1)")
            server.kill(row[0])
            session.execute("INSERT INTO t VALUES (2)")

        with pytest.raises(StoreError):
            database.run(work)
        assert runs == 1
        assert database.run(lambda session: session.all("SELECT a FROM t")) == []

    def test_the_connection_of_a_killed_greenlet_is_not_reused(self, server: Server) -> None:
        database = Database.from_url(server.url, pool_size=1)
        make_table(database)
        before = server.number(database)

        def work(session: Session) -> None:
            session.execute("INSERT INTO t VALUES (1)")
            session.one(server.sleep.format(2))

        job = gevent.spawn(database.run, work)
        gevent.sleep(0.1)
        job.kill()
        assert server.number(database) != before
        assert database.run(lambda session: session.one("SELECT 'x'")) == ("x",)
        assert database.run(lambda session: session.all("SELECT a FROM t")) == []

    def test_a_silent_statement_times_out_and_its_late_response_is_not_read(
        self, server: Server
    ) -> None:
        database = Database.from_url(server.url, pool_size=1, statement_timeout=0.2)
        with pytest.raises(StoreError):
            database.run(lambda session: session.one(server.sleep.format(0.5)))
        assert database.run(lambda session: session.one("SELECT 'x'")) == ("x",)

    def test_long_work_may_have_its_own_timeout(self, server: Server) -> None:
        database = Database.from_url(server.url, statement_timeout=0.2)
        database.run(lambda session: session.one(server.sleep.format(0.5)), timeout=5)

    def test_a_server_that_accepts_and_is_silent_times_out(self, server: Server) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"{urlsplit(server.url).scheme}://root@127.0.0.1:{silent.getsockname()[1]}/x"
            database = Database.from_url(url, connect_timeout=0.2, statement_timeout=0.2)
            jobs = [gevent.spawn(database.check) for _ in range(10)]
            with gevent.Timeout(1.5):  # all at once: one after the other takes 2 s
                gevent.joinall(jobs)
        assert {type(job.exception) for job in jobs} == {StoreError}

    def test_an_unreachable_server_is_a_store_error(self, server: Server) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with pytest.raises(StoreError) as caught:
            Database.from_url(f"{urlsplit(server.url).scheme}://root@127.0.0.1:{port}/x").check()
        assert str(caught.value) == ""

    def test_a_wrong_password_is_a_store_error(self, server: Server) -> None:
        parts = urlsplit(server.url)
        login = f"{parts.username}:wrong@{parts.hostname}:{parts.port}"
        with pytest.raises(StoreError) as caught:
            Database.from_url(f"{parts.scheme}://{login}{parts.path}").check()
        assert str(caught.value) == ""
