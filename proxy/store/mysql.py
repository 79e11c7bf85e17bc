"""MySQL and MariaDB: URLs as PyMySQL's options, and how a session is set up.

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

#: How long MySQL keeps a connection that is idle.
_IDLE_SECONDS: Final = 60
#: Of the patience with one statement: how long MariaDB lets a transaction wait for its next one.
#: It has to beat the patience of those who wait for its locks.
_SERVER_SHARE: Final = 0.8


def options_from_url(url: str) -> dict[str, Any]:
    """``url`` as PyMySQL's keyword arguments. ValueError never shows what was in it."""
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
            # The tables are utf8mb4; "utf8" is what older documentation tells people to write.
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
    # As PyMySQL does: the certificates that MySQL makes for itself are not strict RFC 5280.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@functools.cache
def _opportunistic_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class _Connection(_DriverConnection):
    """PyMySQL's, with one TLS context for all that have no ``ssl_ca`` (TLS if the server has it,
    unverified). PyMySQL makes one for each and fills it with every CA there is, which then
    nobody asks: 50 ms in which the worker does nothing else."""

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return sslp if isinstance(sslp, ssl.SSLContext) else _opportunistic_context()

    #: Seconds, within one statement.
    patience = 1.0
    epoch = 0

    def connect(self, sock: Any = None) -> None:
        super().connect(sock)
        # Frees the locks of a node that froze or lost its network, which hold up all others: the
        # server's own patience is eight hours. MySQL has such a limit for idle connections alone;
        # a pooled one that it has closed is replaced.
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
            "autocommit": True,  # what we do not put into a transaction is none
            "client_flag": CLIENT.FOUND_ROWS,  # rows matched, as other databases count
            # A lax server would cut a long ciphertext off and only warn.
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
