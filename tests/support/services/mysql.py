"""MySQL in MariaDB's place, for who has one: `TEST_MYSQLD=/usr/sbin/mysqld make test`."""

import os
from typing import Final

from tests.support.services.mariadb import MariaDB, as_root
from tests.support.services.process import require

_VARIABLE: Final = "TEST_MYSQLD"


class MySQL(MariaDB):
    """The same worst defaults; root has no password here either."""

    def find(self) -> None:
        self._server = require(os.environ[_VARIABLE], package="mysql-server")

    def install(self) -> None:
        accounts = self.folder / "accounts.sql"
        # Names are not resolved, and then 127.0.0.1 is nobody's localhost.
        accounts.write_text(
            "CREATE USER root@127.0.0.1;\nGRANT ALL ON *.* TO root@127.0.0.1 WITH GRANT OPTION;\n"
        )
        self.run_once(
            [
                self._server,
                "--no-defaults",
                "--initialize-insecure",
                f"--init-file={accounts}",
                f"--datadir={self.folder / 'data'}",
                *as_root(),
            ]
        )

    def own_options(self) -> list[str]:
        return ["--mysqlx=OFF", "--secure-file-priv=", "--innodb-redo-log-capacity=16M"]


def mysql_server() -> MariaDB:
    """MariaDB, which Debian has; MySQL where ``TEST_MYSQLD`` says which."""
    return MySQL() if os.environ.get(_VARIABLE) else MariaDB()
