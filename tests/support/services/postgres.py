"""PostgreSQL, with the worst defaults that a server may have."""

import contextlib
import os
import pwd
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from tests.support.services.certificate import write_certificate
from tests.support.services.process import Process, missing, program


class Postgres(Process):
    """It refuses to run as root, so that for root it runs as ``postgres`` or ``nobody``.

    It speaks TLS too; ``ca_file`` is what vouches for its name ``localhost`` (not 127.0.0.1). Over
    TCP the password of ``postgres`` is :attr:`password`; over the socket in ``folder`` none is
    asked.
    """

    password = "s3:cr/t"
    end_signal = signal.SIGINT  # waits for no client, as SIGTERM would

    def prepare(self) -> None:
        programs = _newest_postgres()
        if programs is None:
            missing("PostgreSQL", "apt-get install postgresql")
        assert programs is not None
        self._programs = programs
        self._names = 0
        self.ca_file, self._key_file = write_certificate(self.folder)
        self._key_file.chmod(0o600)
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        if os.geteuid() == 0:
            user = _unprivileged()
            self.run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        self.run_once(
            [
                str(programs / "initdb"),
                f"--pgdata={self.folder / 'data'}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ]
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "ssl": "on",
            "ssl_cert_file": self.ca_file,
            "ssl_key_file": self._key_file,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": 200,
            # The worst default a server may have: transactions must say what they need.
            "default_transaction_isolation": "serializable",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *options]

    def answers(self) -> bool:
        try:
            self.admin("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def admin(self, sql: str, params: Sequence[Any] = (), database: str = "postgres") -> list[Any]:
        """Runs one statement as the superuser, beside whatever is being tested."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(sql, tuple(params) or None)
            return list(cursor.fetchall()) if cursor.description else []

    def create_database(
        self,
        options: str = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'",
        *,
        template: str = "template0",
    ) -> str:
        """The name of a new database: empty, or a copy of one that nobody is connected to."""
        self._names += 1
        name = f"test_{self._names}"
        # The worst default a database may have: names must be sorted by their bytes all the same.
        self.admin(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        return name

    def drop_database(self, name: str) -> None:
        self.admin(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        password = quote(self.password, safe="")
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{name}"


def _newest_postgres() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, which Debian puts on nobody's PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    found_one = program("initdb")
    return None if found_one is None else Path(found_one).resolve().parent


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.fail("PostgreSQL does not run as root, and there is no other user", pytrace=False)
