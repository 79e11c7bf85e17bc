"""MySQL: URLs, TLS and the session; the pool is in ``test_pooled.py``."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.core.errors import StoreError
from proxy.store.audit import AuditLog, PendingEntry
from proxy.store.database import Database
from proxy.store.migrate import Migrator
from proxy.store.mysql import options_from_url
from tests.support.server import ROOT
from tests.support.services import MariaDB
from tests.support.services.certificate import write_certificate


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

    def test_optional_parts(self) -> None:
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

    def test_a_missing_ca_file_is_refused(self) -> None:
        with pytest.raises(ValueError, match="ssl_ca"):
            options_from_url("mysql://root@db/name?ssl_ca=/nowhere.pem")


class TestTls:
    def cipher(self, url: str) -> Any:
        query = "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
        row = Database.from_url(url).run(lambda session: session.one(query))
        assert row is not None
        return row[1]

    def test_tls_is_used_when_the_server_has_it(self, mysql_url: str) -> None:
        assert self.cipher(mysql_url)

    def test_tls_is_verified_with_a_ca(self, mysql_url: str, mariadb: MariaDB) -> None:
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


FREEZE = """
import os, signal, sys
from proxy.store.database import Database

def work(session):
    session.execute("UPDATE audit_chain SET seq = seq WHERE id = 1")
    os.kill(os.getpid(), signal.SIGSTOP)

Database.from_url(sys.argv[1]).run(work)
"""


def test_a_frozen_node_does_not_block_the_others(mysql_url: str) -> None:
    """Its locks are freed at about the timeout of the statements that wait for them."""
    Migrator(database := Database.from_url(mysql_url)).migrate()
    if "MariaDB" not in str(database.run(lambda session: session.one("SELECT VERSION()"))):
        pytest.skip("MySQL has a limit for connections that are idle, and it is a minute")
    frozen = subprocess.Popen([sys.executable, "-c", FREEZE, mysql_url], cwd=ROOT)
    try:
        os.waitid(os.P_PID, frozen.pid, os.WSTOPPED | os.WNOWAIT)
        # The first attempt may have come too early.
        for last in (False, True):
            try:
                AuditLog(database).write([PendingEntry("project.update", "cli")])
                break
            except StoreError:
                assert not last
    finally:
        frozen.kill()
        frozen.wait()
        database.close()


def test_the_session_is_strict_and_speaks_utf8(mysql_url: str) -> None:
    database = Database.from_url(mysql_url)
    query = "SELECT @@sql_mode, @@character_set_connection, @@collation_connection"
    row = database.run(lambda session: session.one(query))
    assert row is not None
    assert "STRICT_ALL_TABLES" in row[0]
    assert row[1:] == ("utf8mb4", "utf8mb4_bin")
