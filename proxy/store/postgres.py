"""The backend for PostgreSQL: URLs as libpq's options, and psycopg connections with bounded waits.

psycopg chooses how it waits when it is imported. With gevent's patches in place it polls through
them; without, it waits in C, which would block every greenlet. So it must be imported after
patching, as it is when this module is imported because of its URL. Names are looked up by
Python's ``socket``, which is patched too. The pool is in ``pooled.py``.

It works behind a transaction pooler (PgBouncer): no statement is prepared, and every setting is
made within the transaction.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import psycopg
from gevent import monkey
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from proxy.core.errors import StoreError
from proxy.store.dialects import PostgresDialect
from proxy.store.pooled import PooledBackend
from proxy.store.session import Session, Timeouts

T = TypeVar("T")

EXPECTED: Final = (
    "expected postgresql://user:password@host:5432/name, with special characters percent-encoded, "
    "and no options but ?sslmode=, ?sslrootcert=/path, ?channel_binding= and ?host=/socket/folder"
)
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_CHANNEL_BINDINGS: Final = ("disable", "prefer", "require")
#: The server's share of the statement timeout: its own cancellation must come first, because that
#: leaves a connection that can be used again.
_SERVER_SHARE: Final = 0.8


def options_from_url(url: str) -> dict[str, str]:
    """Returns libpq's connection parameters for ``url``. A ValueError never shows a part of it."""
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
        query = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError:
        raise ValueError(EXPECTED) from None  # the original may quote a part of the password
    options = {"port": str(port), **_login(parts), **_extras(query)}
    if parts.hostname:
        if "host" in options:
            raise ValueError(EXPECTED)
        options["host"] = unquote(parts.hostname)
    # A comma would make several hosts of it, a slash a folder, and a NUL would end it.
    if "host" not in options or any("\x00" in value for value in options.values()):
        raise ValueError(EXPECTED)
    if parts.hostname and not {",", "/", "@"}.isdisjoint(options["host"]):
        raise ValueError(EXPECTED)
    return options


def _login(parts: SplitResult) -> dict[str, str]:
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme != "postgresql" or not name or "/" in name or parts.fragment:
        raise ValueError(EXPECTED)
    login = {"dbname": name}
    # Without them libpq takes its own defaults: PGUSER, PGPASSWORD, ~/.pgpass.
    if parts.username:
        login["user"] = unquote(parts.username)
    if parts.password:
        login["password"] = unquote(parts.password)
    return login


def _extras(query: list[tuple[str, str]]) -> dict[str, str]:
    extras: dict[str, str] = {}
    for name, value in query:
        match name:
            case "sslmode" if value in _SSL_MODES:
                extras[name] = value
            case "channel_binding" if value in _CHANNEL_BINDINGS:
                extras[name] = value
            case "host" if value.startswith("/") and "," not in value:
                extras[name] = value
            case "sslrootcert":
                extras[name] = _readable(value)
            case _:
                raise ValueError(EXPECTED)
    if "sslrootcert" in extras:
        # A named CA means that the server's certificate is to be verified, not merely encryption.
        extras.setdefault("sslmode", "verify-full")
    elif extras.get("sslmode", "").startswith("verify"):
        raise ValueError("?sslmode=verify-… needs ?sslrootcert=/path")
    return extras


def _readable(ca_file: str) -> str:
    try:
        Path(ca_file).read_bytes()
    except OSError as error:
        raise ValueError(f"the file in ?sslrootcert= cannot be used: {error.strerror}") from error
    return ca_file


class _Link(psycopg.Connection[tuple[Any, ...]]):
    """psycopg's connection with every wait bounded.

    The server's timeout does not help when the server is stopped or the network drops everything.
    """

    patience: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


class PostgresConnection:
    """See :class:`proxy.store.pooled.Connection`."""

    #: PooledDB reads this from a driver: connections are not shared between threads.
    threadsafety: Final = 1

    def __init__(self, options: Mapping[str, Any], patience: float) -> None:
        self._options = options
        self._patience = patience
        self._link: _Link | None = None
        self.epoch = 0

    @property
    def open(self) -> bool:
        return self._link is not None and not self._link.closed

    @property
    def _state(self) -> TransactionStatus:
        return self._connected().info.transaction_status

    @property
    def failed(self) -> bool:
        """Whether a statement of the open transaction failed, so that it cannot be committed."""
        return self._state == TransactionStatus.INERROR

    def connect(self) -> None:
        self._link = _Link.connect(**self._options)
        self._link.patience = self._patience
        if self._link.info.parameter_status("server_encoding") not in ("UTF8", None):
            self._link.close()
            raise StoreError("The proxy's PostgreSQL database must have the encoding UTF8.")

    def cursor(self) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connected().cursor()

    def rollback(self) -> None:
        # Nothing can be sent to a server that still owes a response.
        if self._state not in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            raise psycopg.OperationalError("a statement was cut off")
        self._connected().rollback()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    # PQfinish sends as much as it can without waiting.
    discard = close

    def _connected(self) -> _Link:
        if self._link is None:
            raise psycopg.InterfaceError("not connected")
        return self._link


class PostgresBackend(PooledBackend):
    """See :class:`proxy.store.session.Backend`."""

    def __init__(self, options: Mapping[str, str], pool_size: int, timeouts: Timeouts) -> None:
        if monkey.is_module_patched("select") and waiting.wait is getattr(waiting, "wait_c", None):
            raise RuntimeError("psycopg was imported before gevent's patches: it would block")
        self._options: dict[str, Any] = {
            **options,
            "autocommit": True,  # BEGIN and COMMIT are sent explicitly
            # Prepared statements belong to a connection that a pooler may give to another client.
            "prepare_threshold": None,
            "client_encoding": "utf8",
            "application_name": "openai-proxy",
            "gssencmode": "disable",  # would ask Kerberos, in C
            # For processes without gevent's patches, where no gevent.Timeout is raised; libpq's
            # minimum is 2.
            "connect_timeout": max(2, math.ceil(timeouts.connect)),
            # Keeps idle connections alive through a firewall, and detects those it has dropped.
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": _milliseconds(timeouts.statement),
        }
        super().__init__(PostgresDialect(), pool_size, timeouts)

    def _make(self, statement: float) -> PostgresConnection:
        return PostgresConnection(self._options, statement)

    def _begin_sql(self, readonly: bool, statement: float) -> str:
        # One round trip. The second frees the locks of a node that froze or lost its network.
        limit = _milliseconds(statement * _SERVER_SHARE)
        return (
            f"{self.dialect.begin(readonly=readonly)}; SET LOCAL statement_timeout = {limit}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {limit}"
        )

    def _commit(self, connection: PostgresConnection, session: Session) -> None:
        # After a failed statement COMMIT rolls back and reports success.
        if connection.failed:
            raise StoreError
        session.execute("COMMIT")


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
