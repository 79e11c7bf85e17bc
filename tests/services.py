"""Real servers for tests: started here, on a free port, in a temporary folder.

Never a server that happens to be running, and only what was started here is ended, by its pid.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START_TIMEOUT = 60.0


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def missing(what: str, how: str) -> None:
    """Skips the test, in one line; fails it where ``REQUIRE_SERVICES=1`` (CI)."""
    message = f"{what} is not installed: {how}"
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _program(*names: str) -> str | None:
    # Debian keeps servers in /usr/sbin, which is not on everybody's PATH.
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin" + os.pathsep + "/usr/local/sbin"
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for ``localhost`` and its key, as PEM files, good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    key_file.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    return cert_file, key_file


class MariaDB:
    """A MariaDB server of our own. Entering starts it; leaving ends it and its folder.

    It speaks TLS too; ``ca_file`` is what vouches for its name ``localhost`` (not 127.0.0.1).
    """

    def __enter__(self) -> "MariaDB":
        server, installer = _program("mariadbd"), _program("mariadb-install-db")
        if server is None or installer is None:
            missing("MariaDB", "apt-get install mariadb-server")
        assert server is not None
        assert installer is not None
        # /tmp, not pytest's long folder: a unix socket's path has 107 bytes at most.
        self._folder = Path(tempfile.mkdtemp(prefix="proxy-mariadb-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.log = self._folder / "log"
        self._names = 0
        self.ca_file, self._key_file = write_certificate(self._folder)
        try:
            self._start(server, installer)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self, server: str, installer: str) -> None:
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        data = f"--datadir={self._folder / 'data'}"
        install = [
            installer,
            "--no-defaults",
            data,
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *as_root,
        ]
        with self.log.open("ab") as log:
            done = subprocess.run(install, stdout=log, stderr=log, check=False)
            if done.returncode != 0:
                pytest.fail(f"mariadb-install-db failed:\n{self.log.read_text()}", pytrace=False)
        self._server = server
        self.run()

    def run(self) -> None:
        """Start the server, for the first time or again after :meth:`halt`."""
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._server,
                    "--no-defaults",
                    f"--datadir={self._folder / 'data'}",
                    f"--socket={self._folder / 'socket'}",
                    f"--pid-file={self._folder / 'pid'}",
                    "--bind-address=127.0.0.1",
                    f"--port={self.port}",
                    "--skip-networking=0",
                    "--skip-name-resolve",
                    f"--ssl-cert={self.ca_file}",
                    f"--ssl-key={self._key_file}",
                    "--skip-log-bin",
                    "--innodb-buffer-pool-size=24M",
                    "--innodb-log-file-size=16M",
                    "--innodb-flush-log-at-trx-commit=0",
                    "--innodb-doublewrite=0",
                    "--max-connections=200",
                    *as_root,
                ],
                stdout=log,
                stderr=log,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.admin("SELECT 1")
                return
            except pymysql.err.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"MariaDB did not start:\n{self.log.read_text()}", pytrace=False)
                time.sleep(0.05)

    def halt(self) -> None:
        """End the server; its data stay."""
        if self._process is not None:
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def pause(self) -> None:
        """Stop the process where it stands: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self.halt()
        shutil.rmtree(self._folder, ignore_errors=True)

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
