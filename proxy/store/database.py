"""The database: one unit of work is one transaction, and every wait is bounded.

``database.run(work)`` calls ``work(session)``, commits when it returns, rolls back when it raises.

Note: the work may run on another thread and may be rolled back although it returned, so it must
only read and write the database. Every other effect belongs after ``run`` has returned.
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

#: How long a failed write counts: the background writers try again within seconds.
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


#: URL scheme → factory of the backend. A driver is imported only when it is picked.
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
        # The process of the first use: neither kind of connection survives a fork.
        self._process: int | None = None
        # Monotonic seconds of the last failed write; None if the last one succeeded.
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

        The timeouts, in seconds: for a free connection, until connected, and of silence within a
        statement. Raises ValueError, which says what was expected and shows nothing of ``url`` but
        its scheme.
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
        """Returns the result of ``work`` after its transaction was committed.

        ``readonly`` work takes no write lock. ``timeout`` (seconds) replaces the usual one, for
        long work such as a migration. Nothing is retried once it may have been executed.

        Raises StoreError when the database does not respond (after a failed commit the outcome is
        unknown), Conflict for a violated unique constraint, and whatever ``work`` raises.
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
        """Tries a write that changes nothing, and raises StoreError if the database refuses it.

        Also raises if the last real write failed a moment ago: a full disk accepts a write that
        changes nothing.
        """
        self._backend.run(
            lambda session: session.execute("UPDATE tokens SET name = name WHERE id = ''"),
            readonly=False,
            timeout=None,
        )
        failed_at = self._write_failed_at
        if failed_at is not None and time.monotonic() - failed_at < _FAILED_SECONDS:
            raise StoreError

    def check(self) -> None:
        """Raises StoreError unless the database responds."""
        self.run(lambda session: session.one("SELECT 1"), readonly=True)

    def close(self) -> None:
        """Closes idle connections now, and those in use when they are returned. Idempotent."""
        if not self._closed:
            self._closed = True
            self._backend.close()
