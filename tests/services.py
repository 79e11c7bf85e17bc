"""Real servers for tests: started here, on a free port, in a temporary folder.

Never a server that happens to be running, and only what was started here is ended, by its pid.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import quote

import boto3
import psycopg
import pymysql
import pytest
import redis
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.ports import free_port

START_TIMEOUT = 60.0


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


class Postgres:
    """A PostgreSQL server of our own. Entering starts it; leaving ends it and its folder.

    It refuses to run as root, so that for root it runs as ``postgres`` or ``nobody``. It speaks
    TLS too; ``ca_file`` is what vouches for its name ``localhost`` (not 127.0.0.1). Over TCP the
    password of ``postgres`` is :attr:`password`; over the socket in ``folder`` none is asked.
    """

    password = "s3:cr/t"

    def __enter__(self) -> "Postgres":
        programs = _newest_postgres()
        if programs is None:
            missing("PostgreSQL", "apt-get install postgresql")
        assert programs is not None
        self._as: dict[str, Any] = {}
        # /tmp, not pytest's long folder: a unix socket's path has 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-postgres-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.log = self.folder / "log"
        self._names = 0
        self.ca_file, key_file = write_certificate(self.folder)
        key_file.chmod(0o600)
        password_file = self.folder / "password"
        password_file.write_text(self.password)
        if os.geteuid() == 0:
            user = _unprivileged()
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, user.pw_uid, user.pw_gid)
        try:
            self._initialise(programs / "initdb", password_file)
            self.start(programs / "postgres", key_file)
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

    def _initialise(self, program: Path, password_file: Path) -> None:
        command = [
            program,
            f"--pgdata={self.folder / 'data'}",
            "--username=postgres",
            f"--pwfile={password_file}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]
        with self.log.open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=log, check=False, cwd=self.folder, **self._as
            )
        if done.returncode != 0:
            pytest.fail(f"initdb failed:\n{self.log.read_text()}", pytrace=False)

    def start(self, program: Path, key_file: Path) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "ssl": "on",
            "ssl_cert_file": self.ca_file,
            "ssl_key_file": key_file,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": 200,
            # The worst default a server may have: transactions must say what they need.
            "default_transaction_isolation": "serializable",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", self.folder / "data", *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as,
            )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self.admin("SELECT 1")
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start:\n{self.log.read_text()}", pytrace=False)
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # waits for no client, as SIGTERM would
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def admin(self, sql: str, params: Sequence[Any] = (), database: str = "postgres") -> list[Any]:
        """Runs one statement as the superuser, beside whatever is being tested."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(sql, tuple(params) or None)
            return list(cursor.fetchall()) if cursor.description else []

    def create_database(self, options: str = "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'") -> str:
        """The name of a new, empty database."""
        self._names += 1
        name = f"test_{self._names}"
        # The worst default a database may have: names must be sorted by their bytes all the same.
        self.admin(f"CREATE DATABASE {name} TEMPLATE template0 {options}")
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
    program = _program("initdb")
    return None if program is None else Path(program).resolve().parent


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.fail("PostgreSQL does not run as root, and there is no other user", pytrace=False)


class Prometheus:
    """A Prometheus that scrapes ``targets`` (host:port) every second and evaluates ``rules``."""

    def __init__(self, folder: Path, targets: Sequence[str], rules: Path, token: str) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "prometheus.log"
        self._configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": "openai-proxy",
                    "authorization": {"credentials": token},
                    "static_configs": [{"targets": list(targets)}],
                }
            ],
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Prometheus":
        program = _program("prometheus")
        if program is None:
            missing("Prometheus", "apt-get install --no-install-recommends prometheus")
        assert program is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        configuration = self._folder / "prometheus.yml"
        configuration.write_text(json.dumps(self._configuration))  # JSON is YAML
        command = [
            program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not self._is_ready():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"Prometheus did not start:\n{self.log.read_text()}", pytrace=False)
                time.sleep(0.05)
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

    def _is_ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        return False

    def ask(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of its API; fails with what it says is wrong."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """The series that an instant query finds."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class _Process:
    """A server that is one program of our own. Entering starts it; leaving ends it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="proxy-service-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def run(self) -> None:
        """Start it, for the first time or again after :meth:`halt`; waits until it answers."""
        log_path = self.folder / "log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, cwd=self.folder
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"did not start:\n{log_path.read_text()}", pytrace=False)
            time.sleep(0.05)

    def halt(self) -> None:
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

    def __enter__(self) -> Any:
        try:
            self.run()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisServer(_Process):
    """A Redis of our own, with a password; what it holds survives :meth:`halt`."""

    password = "s3:cr/t"

    def _command(self) -> list[str]:
        program = _program("redis-server", "valkey-server")
        if program is None:
            missing("Redis", "apt-get install redis-server")
        assert program is not None
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "requirepass": self.password,
            "appendonly": "yes",
            "appendfsync": "no",
            "save": "",
        }
        return [
            program,
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        ]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, decode_responses=True)

    @property
    def url(self) -> str:
        return f"redis://:{quote(self.password, safe='')}@127.0.0.1:{self.port}/0"


class Moto(_Process):
    """Amazon's services over HTTP, as moto stands in for them."""

    #: What boto3 reads; the endpoint is added by whoever stands in between.
    environ: ClassVar[dict[str, str]] = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }

    def _command(self) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            "-H",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        return boto3.client(
            "logs",
            endpoint_url=self.url,
            region_name=self.environ["AWS_DEFAULT_REGION"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def messages(self, group: str) -> list[str]:
        """Every event of every stream of ``group``; none when it does not exist."""
        logs, found = self.client(), []
        if not logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]:
            return []
        for stream in logs.describe_log_streams(logGroupName=group)["logStreams"]:
            name, token = stream["logStreamName"], None
            while True:
                page = logs.get_log_events(
                    logGroupName=group,
                    logStreamName=name,
                    startFromHead=True,
                    **({} if token is None else {"nextToken": token}),
                )
                found += [event["message"] for event in page["events"]]
                if page["nextForwardToken"] == token or not page["events"]:
                    break
                token = page["nextForwardToken"]
        return found
