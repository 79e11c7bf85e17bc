"""MySQL and MariaDB: PyMySQL connections in a DBUtils pool, used by the calling greenlet.

PooledDB holds its lock while it connects, pings and rolls back, so it is given nothing to do
under it: connections are made with ``defer_connect`` and connected by us afterwards, pinging and
resetting are off, and a semaphore in front of it makes every wait bounded. SteadyDB's habit of
repeating a failed statement on a new connection is passed by as well: statements run on the raw
connection, because a repeated write may count twice.
"""

import contextlib
import functools
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import gevent
import pymysql
from dbutils.pooled_db import PooledDB
from gevent.lock import BoundedSemaphore
from pymysql.constants import CLIENT

from proxy.errors import StoreError
from proxy.store.dialects import MysqlDialect
from proxy.store.session import Session, Timeouts

T = TypeVar("T")
if TYPE_CHECKING:  # generic in its stubs only
    _DriverConnection = pymysql.connections.Connection[pymysql.cursors.Cursor]
else:
    _DriverConnection = pymysql.connections.Connection

EXPECTED: Final = (
    "expected mysql://user:password@host:3306/name, with special characters percent-encoded, and "
    "no options but ?charset=utf8mb4, ?unix_socket=/path and ?ssl_ca=/path"
)


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


class MysqlBackend:
    """See :class:`proxy.store.session.Backend`."""

    def __init__(self, options: Mapping[str, Any], pool_size: int, timeouts: Timeouts) -> None:
        self.dialect = MysqlDialect()
        self._timeouts = timeouts
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
            "read_timeout": timeouts.statement,
            "write_timeout": timeouts.statement,
            "defer_connect": True,
        }
        # The gate counts as PooledDB does, but waits for a bounded time.
        self._gate = BoundedSemaphore(pool_size)
        self._closed = False
        self._pool = PooledDB(
            self._make,
            maxcached=pool_size,
            maxconnections=pool_size,
            blocking=False,
            reset=False,
            ping=0,
            **self._options,
        )

    def run(self, work: Callable[[Session], T], *, readonly: bool, timeout: float | None) -> T:
        if timeout is not None:
            return self._run_apart(work, readonly, timeout)
        if not self._gate.acquire(timeout=self._timeouts.wait):
            raise StoreError("The proxy's database is too busy right now.")
        try:
            pooled = self._pool.connection(shareable=False)
            try:
                connection: _Connection = pooled.dbapi_connection
                return self._transact(connection, work, readonly)
            finally:
                if self._closed:
                    _discard(connection)
                pooled.close()  # gives it back
        finally:
            self._gate.release()

    def _make(self, **options: Any) -> _Connection:
        # Not the class itself: its method connect() would make PooledDB take it for a driver.
        return _Connection(**options)

    def close(self) -> None:
        self._closed = True
        self._pool.close()

    def _run_apart(self, work: Callable[[Session], T], readonly: bool, timeout: float) -> T:
        # Long work (a migration) with a patience of its own, beside the pool.
        options = self._options | {"read_timeout": timeout, "write_timeout": timeout}
        connection = _Connection(**options)
        try:
            return self._transact(connection, work, readonly)
        finally:
            with contextlib.suppress(pymysql.err.MySQLError):
                connection.close()

    def _transact(self, connection: _Connection, work: Callable[[Session], T], readonly: bool) -> T:
        session = Session(connection.cursor(), self.dialect)
        try:
            self._begin(connection, session, self.dialect.begin(readonly=readonly))
            value = work(session)
            session.execute("COMMIT")
        except Exception:
            _roll_back(connection)
            raise
        except BaseException:
            # Killed, or timed out from outside, perhaps in the middle of a packet: what comes
            # next on this connection may answer the wrong question.
            _discard(connection)
            raise
        return value

    def _begin(self, connection: _Connection, session: Session, statement: str) -> None:
        # BEGIN is the probe: a pooled connection that the server has dropped meanwhile fails
        # here, before anything was executed, so trying once more on a new one repeats nothing.
        if connection.open:
            try:
                session.execute(statement)
                return
            except StoreError:
                _discard(connection)
        self._connect(connection)
        session.execute(statement)

    def _connect(self, connection: _Connection) -> None:
        # Name lookup has no timeout of its own, and a handshake may come byte by byte.
        limit = self._timeouts.connect + self._timeouts.statement
        try:
            with gevent.Timeout(limit, StoreError("The proxy's database did not answer in time.")):
                connection.connect()
        except self.dialect.driver_errors as error:
            raise self.dialect.translate(error) from error


def _roll_back(connection: _Connection) -> None:
    if not connection.open:
        return
    try:
        connection.rollback()
    except pymysql.err.MySQLError:
        _discard(connection)
    except BaseException:
        _discard(connection)
        raise


def _discard(connection: _Connection) -> None:
    """Closes the socket and says nothing to the server; the next user connects anew."""
    connection._force_close()  # type: ignore[attr-defined]  # noqa: SLF001 - close() would write
