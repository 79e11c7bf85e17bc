"""The database: one unit of work, one transaction, never a wait without an end.

``database.run(work)`` calls ``work(session)``, commits when it returns, rolls back when it raises.
What one would get wrong: the work may run on another thread and may be rolled back although it
returned, so it only reads and writes the database; whatever else is to happen, happens after
``run`` has returned.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from proxy.core.errors import StoreError
from proxy.store.dialects import Conflict, Deadlock, Dialect
from proxy.store.session import Backend, Row, Session, Timeouts, Value

__all__ = ["Conflict", "Database", "Row", "Session", "Value"]

T = TypeVar("T")

#: How long a write that failed counts: those who write in the background try again within seconds.
_FAILED_SECONDS: Final = 15.0


def _sqlite(url: str, pool_size: int, timeouts: Timeouts) -> Backend:
    from proxy.store.sqlite import SqliteBackend, path_from_url

    return SqliteBackend(path_from_url(url), timeouts)


def _mysql(url: str, pool_size: int, timeouts: Timeouts) -> Backend:
    from proxy.store.mysql import MysqlBackend, options_from_url

    return MysqlBackend(options_from_url(url), pool_size, timeouts)


def _postgresql(url: str, pool_size: int, timeouts: Timeouts) -> Backend:
    from proxy.store.postgres import PostgresBackend, options_from_url

    return PostgresBackend(options_from_url(url), pool_size, timeouts)


#: URL scheme → how to get there. Drivers are imported only when picked.
_BACKENDS: Final[Mapping[str, Callable[[str, int, Timeouts], Backend]]] = {
    "sqlite": _sqlite,
    "mysql": _mysql,
    "postgresql": _postgresql,
}


class Database:
    """Made without I/O; connects on first use, in the process that uses it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._closed = False
        # The process that used it first: neither kind of connection survives a fork.
        self._process: int | None = None
        # Monotonic seconds at which a unit of work that writes failed; None: the last one worked.
        self._write_failed_at: float | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        pool_size: int = 10,
        wait_timeout: float = 3.0,
        connect_timeout: float = 3.0,
        statement_timeout: float = 5.0,
    ) -> "Database":
        """``sqlite:///relative``, ``sqlite:////absolute``, ``mysql://user:pass@host:3306/name``
        or ``postgresql://user:pass@host:5432/name``.

        Seconds: for a free connection, until connected, and of silence within a statement.
        ValueError says what was expected and shows nothing of ``url`` but its scheme.
        """
        backend = _BACKENDS.get(url.partition("://")[0])
        if backend is None:
            known = ", ".join(f"{name}://" for name in _BACKENDS)
            raise ValueError(f"expected a database URL that starts with one of: {known}")
        timeouts = Timeouts(wait_timeout, connect_timeout, statement_timeout)
        return cls(backend(url, pool_size, timeouts))

    @property
    def dialect(self) -> Dialect:
        return self._backend.dialect

    def run(
        self,
        work: Callable[[Session], T],
        *,
        readonly: bool = False,
        timeout: float | None = None,
    ) -> T:
        """What ``work`` returns, after its transaction was committed.

        ``readonly`` work takes no write lock; ``timeout`` (seconds) replaces the usual patience,
        for long work such as a migration. Nothing is retried once it may have been executed.
        StoreError: the database did not answer; after a failed commit the outcome is unknown.
        Conflict: a unique constraint. Whatever ``work`` raises comes out as it is.
        """
        if self._closed:
            raise StoreError("The proxy's database has been closed.")
        if self._process is None:
            self._process = os.getpid()
        elif self._process != os.getpid():
            raise RuntimeError("this Database was used before the fork: make one per process")
        if readonly:
            return self._backend.run(work, readonly=True, timeout=timeout)
        try:
            value = self._backend.run(work, readonly=False, timeout=timeout)
        except (Conflict, Deadlock):
            raise
        except StoreError:
            self._write_failed_at = time.monotonic()
            raise
        self._write_failed_at = None
        return value

    def check_writes(self) -> None:
        """StoreError unless the database takes writes: tries one that changes nothing. Also when
        the last real one failed a moment ago (a full disk takes a write that changes nothing)."""
        self._backend.run(
            lambda session: session.execute("UPDATE tokens SET name = name WHERE id = ''"),
            readonly=False,
            timeout=None,
        )
        failed_at = self._write_failed_at
        if failed_at is not None and time.monotonic() - failed_at < _FAILED_SECONDS:
            raise StoreError

    def check(self) -> None:
        """StoreError unless the database answers."""
        self.run(lambda session: session.one("SELECT 1"), readonly=True)

    def close(self) -> None:
        """Closes idle connections now and those in use when they come back. Idempotent."""
        if not self._closed:
            self._closed = True
            self._backend.close()
