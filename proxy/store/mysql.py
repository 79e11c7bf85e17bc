"""The backend for MySQL and MariaDB: URLs as PyMySQL's options, and the setup of a session.

PyMySQL waits on Python's sockets, which gevent patches. The pool is in ``pooled.py``.
"""

import functools
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT

from proxy.store.dialects import MysqlDialect
from proxy.store.pooled import PooledBackend
from proxy.store.session import Timeouts

if TYPE_CHECKING:  # generic in its stubs only
    _DriverConnection = pymysql.connections.Connection[pymysql.cursors.Cursor]
else:
    _DriverConnection = pymysql.connections.Connection

EXPECTED: Final = (
    "expected mysql://user:password@host:3306/name, with special characters percent-encoded, and "
    "no options but ?charset=utf8mb4, ?unix_socket=/path and ?ssl_ca=/path"
)

#: How long MySQL keeps an idle connection.
_IDLE_SECONDS: Final = 60
#: The share of the statement timeout for which MariaDB lets a transaction wait for its next
#: statement. It must be over before the timeout of a statement that waits for its locks.
_SERVER_SHARE: Final = 0.8


def options_from_url(url: str) -> dict[str, Any]:
    """Returns PyMySQL's keyword arguments for ``url``. A ValueError never shows any part of it."""
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ValueError(EXPECTED) from None  # the original may quote a part of the password
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme != "mysql" or not name or "/" in name or parts.fragment:
        raise ValueError(EXPECTED)
    options: dict[str, Any] = {
        "host": unquote(parts.hostname or ""),
        "port": port,
        "user": unquote(parts.username or ""),
        # As bytes: PyMySQL encodes a str as Latin-1, which most passwords outside it are not.
        "password": unquote(parts.password or "").encode(),
        "database": name,
    }
    options |= _extras(query)
    if not options["host"] and "unix_socket" not in options:
        raise ValueError(EXPECTED)
    return options


def _extras(query: list[tuple[str, str]]) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    for name, value in query:
        match name:
            # The tables are utf8mb4; older documentation recommends "utf8".
            case "charset" if value in ("utf8mb4", "utf8"):
                pass
            case "unix_socket":
                extras["unix_socket"] = value
            case "ssl_ca":
                extras["ssl"] = _verifying_context(value)
            case _:
                raise ValueError(EXPECTED)
    return extras


def _verifying_context(ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ValueError(f"the file in ?ssl_ca= cannot be used: {error.strerror}") from error
    # As in PyMySQL: the certificates that MySQL makes for itself do not follow RFC 5280 strictly.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@functools.cache
def _opportunistic_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Connection(_DriverConnection):
    """PyMySQL's connection, with one TLS context shared by all connections without ``ssl_ca`` (TLS
    if the server has it, unverified). PyMySQL makes one for each and loads every CA into it, which
    is then never used: 50 ms in which the worker does nothing else."""

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return sslp if isinstance(sslp, ssl.SSLContext) else _opportunistic_context()

    #: Seconds, within one statement.
    patience = 1.0
    epoch = 0

    def connect(self, sock: Any = None) -> None:
        super().connect(sock)
        # Frees the locks of a node that froze or lost its network, which block all others: the
        # server's own timeout is eight hours. MySQL has such a limit for idle connections alone; a
        # pooled connection that it has closed is replaced.
        if "MariaDB" in self.get_server_info():  # type: ignore[no-untyped-call]
            limit = f"idle_transaction_timeout = {max(1, int(self.patience * _SERVER_SHARE))}"
        else:
            limit = f"wait_timeout = {_IDLE_SECONDS}"
        self.query(f"SET SESSION {limit}")

    def discard(self) -> None:
        self._force_close()  # type: ignore[attr-defined]  # close() would write


class MysqlBackend(PooledBackend):
    """See :class:`proxy.store.session.Backend`."""

    def __init__(self, options: Mapping[str, Any], pool_size: int, timeouts: Timeouts) -> None:
        self._options: dict[str, Any] = {
            **options,
            "charset": "utf8mb4",
            "collation": "utf8mb4_bin",
            "autocommit": True,  # transactions are opened explicitly
            "client_flag": CLIENT.FOUND_ROWS,  # rows matched, as other databases count
            # A lax server would truncate a long ciphertext and only warn.
            "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION",
            # Fewer gap locks, so fewer deadlocks; no unit of work here reads a row twice.
            "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "connect_timeout": timeouts.connect,
            "defer_connect": True,
        }
        super().__init__(MysqlDialect(), pool_size, timeouts)

    def _make(self, statement: float) -> _Connection:
        made = _Connection(**self._options, read_timeout=statement, write_timeout=statement)
        made.patience = statement
        return made
