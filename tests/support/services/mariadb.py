"""MariaDB, with the worst defaults that a server may have."""

import os
from collections.abc import Sequence
from typing import Any

import pymysql

from tests.support.services.certificate import write_certificate
from tests.support.services.process import Process, require


class MariaDB(Process):
    """It speaks TLS too; ``ca_file`` is what vouches for its name ``localhost`` (not 127.0.0.1)."""

    def prepare(self) -> None:
        self._names = 0
        # Not /tmp: one that starts there removes the temporary tables of the others.
        self.run_as["env"] = {**os.environ, "TMPDIR": str(self.folder)}
        self.find()
        self.ca_file, self._key_file = write_certificate(self.folder)
        self.install()

    def find(self) -> None:
        self._server = require("mariadbd", package="mariadb-server")

    def install(self) -> None:
        """Makes the folder of data."""
        installer = require("mariadb-install-db", package="mariadb-server")
        self.run_once(
            [
                installer,
                "--no-defaults",
                f"--datadir={self.folder / 'data'}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *as_root(),
            ]
        )

    def command(self) -> list[str]:
        return [
            self._server,
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            "--skip-networking=0",
            "--skip-name-resolve",
            f"--ssl-cert={self.ca_file}",
            f"--ssl-key={self._key_file}",
            "--skip-log-bin",
            "--innodb-buffer-pool-size=24M",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--max-connections=200",
            *self.own_options(),
            *as_root(),
        ]

    def own_options(self) -> list[str]:
        return ["--innodb-log-file-size=16M"]

    def answers(self) -> bool:
        try:
            self.admin("SELECT 1")
        except pymysql.err.OperationalError:
            return False
        return True

    def admin(self, sql: str, params: Sequence[Any] = (), database: str | None = None) -> list[Any]:
        """Runs one statement as root, beside whatever is being tested."""
        connection = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            database=database,
            autocommit=True,
            ssl_disabled=True,  # else PyMySQL reads every CA certificate first: 50 ms
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, tuple(params) or None)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def create_database(self) -> str:
        """The name of a new, empty database."""
        self._names += 1
        name = f"test_{self._names}"
        # The worst default a server may have: the tables must bring their own character set.
        self.admin(f"CREATE DATABASE {name} CHARACTER SET latin1")
        return name

    def drop_database(self, name: str) -> None:
        self.admin(f"DROP DATABASE {name}")

    def url(self, name: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{name}"


def as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []
