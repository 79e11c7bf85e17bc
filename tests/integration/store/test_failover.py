"""An address leads to another server: connected processes follow, without a restart.

The old primary lives on, keeps its connections and refuses writes: the new one is where the address
leads to from then on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import gevent
import pytest

from proxy.store import pooled
from proxy.store.database import Database, Session
from proxy.store.dialects import ReadOnly
from tests.support.fault_proxy import Middleman
from tests.support.services import MariaDB, Postgres, mysql_server
from tests.support.wait import wait_until


class OldPostgres(Postgres):
    """A server that can be a standby, which has no serializable transactions."""

    def command(self) -> list[str]:
        return [part.replace("=serializable", "=read committed") for part in super().command()]


@dataclass
class Pair:
    """``old`` and ``new`` each have a table ``t`` with their own name in it."""

    kind: str
    old: Any
    new: Any
    address: Middleman
    database: Database

    def demote(self) -> None:
        if self.kind == "mysql":
            self.old.admin("SET GLOBAL read_only = ON")
            return
        self.old.halt()
        signal = self.old.folder / "data" / "standby.signal"
        signal.touch(mode=0o666)
        self.old.run()

    def promote(self) -> None:
        if self.kind == "mysql":
            self.old.admin("SET GLOBAL read_only = OFF")
        else:
            self.old.admin("SELECT pg_promote()")

    def write(self) -> None:
        self.database.run(lambda session: session.execute("UPDATE t SET n = n + 1"))

    def read(self) -> str:
        """The name of the server that responds."""

        def slowly(session: Session) -> str:
            row = session.one("SELECT name FROM t")
            assert row is not None
            return str(row[0])

        return self.database.run(slowly, readonly=True)

    def readers(self, count: int) -> set[str]:
        """Read over ``count`` connections at once."""
        sleep = "SELECT SLEEP(0.1)" if self.kind == "mysql" else "SELECT 1 FROM pg_sleep(0.1)"

        def work(session: Session) -> str:
            session.one(sleep)
            row = session.one("SELECT name FROM t")
            assert row is not None
            return str(row[0])

        jobs = [gevent.spawn(self.database.run, work, readonly=True) for _ in range(count)]
        gevent.joinall(jobs, raise_error=True)
        return {job.value for job in jobs}


@pytest.fixture(params=["mysql", "postgres"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    kind = request.param
    new: MariaDB | Postgres = request.getfixturevalue("mariadb" if kind == "mysql" else "postgres")
    with mysql_server() if kind == "mysql" else OldPostgres() as old:
        names = {}
        for server, name in ((old, "old"), (new, "new")):
            names[name] = server.create_database()
        # The certificates of both have the name in the address.
        shared = "failover"
        for server, name in ((old, "old"), (new, "new")):
            server.admin(f"CREATE DATABASE {shared}")
            database = Database.from_url(server.url(shared))
            database.run(lambda session: session.execute("CREATE TABLE t (name VARCHAR(9), n INT)"))
            database.run(
                lambda session, name=name: session.execute("INSERT INTO t VALUES (?, 0)", (name,))
            )
            database.close()
            if kind == "mysql":
                server.admin("CREATE USER proxy@'127.0.0.1' IDENTIFIED BY 'pw'")
                server.admin(f"GRANT ALL ON {shared}.* TO proxy@'127.0.0.1'")
        address = Middleman(old.port)
        parts = urlsplit(old.url(shared))
        login = "proxy:pw" if kind == "mysql" else parts.netloc.rpartition("@")[0]
        url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{address.port}"))
        database = Database.from_url(url, pool_size=4)
        try:
            yield Pair(kind, old, new, address, database)
        finally:
            database.close()
            address.close()
            if kind == "mysql":
                new.admin("DROP USER proxy@'127.0.0.1'")
            new.drop_database(shared)


def test_the_first_write_after_a_failover_works(pair: Pair) -> None:
    pair.write()
    assert pair.readers(4) == {"old"}
    pair.demote()
    if pair.kind == "postgres":
        assert pair.readers(4) == {"old"}  # the restart ended the connections, these are new
    pair.address.lead_to(pair.new.port)
    assert pair.readers(2) == {"old"}, "no write has failed yet"
    pair.write()
    assert pair.readers(4) == {"new"}, "no reader stays behind either"
    pair.write()
    assert pair.new.admin("SELECT n FROM t", database="failover")[0][0] == 2


def test_a_read_only_server_without_a_successor_is_read(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooled, "_FOLLOW_PAUSE", 60.0)
    pair.write()
    pair.demote()
    for _ in range(3):
        with pytest.raises(ReadOnly):
            pair.write()
    assert pair.read() == "old"
    calls = pair.address.calls
    for _ in range(5):
        assert pair.read() == "old"
    assert pair.address.calls == calls, "readers keep their connections"
    pair.promote()

    def works() -> bool:
        try:
            pair.write()
        except ReadOnly:
            return False
        return True

    wait_until(works)
    assert pair.read() == "old"


@pytest.mark.parametrize("pair", ["mysql"], indirect=True)
def test_a_write_refused_within_a_transaction_is_not_repeated(pair: Pair) -> None:
    """The server is demoted between BEGIN and the statement: nothing is written. A PostgreSQL
    that becomes a standby is restarted."""
    pair.write()

    def work(session: Session) -> None:
        pair.demote()
        pair.address.lead_to(pair.new.port)
        session.execute("UPDATE t SET n = 100")

    with pytest.raises(ReadOnly):
        pair.database.run(work)
    assert pair.read() == "new"
    pair.write()
    assert pair.new.admin("SELECT n FROM t", database="failover")[0][0] == 1
