"""The database as a unit of work sees it, and the contract of a backend.

A :class:`Session` lives as long as one transaction and is used by one greenlet (or one thread)
only.

Note: work passed to :meth:`Backend.run` may run on another thread, so it must not touch gevent. It
may be rolled back after it returned, so it must change nothing but the database.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from proxy.store.dialects import Dialect

T = TypeVar("T")
Row = tuple[Any, ...]
#: The types of a parameter. The repositories convert everything else (``rows.py``).
Value = str | int | None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Timeouts in seconds. ``wait``: for a free connection. ``connect``: until TCP is connected.
    ``statement``: silence of the server within one statement, or SQLite's whole unit of work."""

    wait: float
    connect: float
    statement: float


class Cursor(Protocol):
    """The part of a DB-API cursor that is used here."""

    @property
    def rowcount(self) -> int: ...
    def execute(self, sql: str, params: Any = ..., /) -> Any: ...
    def fetchall(self) -> Sequence[Any]: ...


class Session:
    """One open transaction. It raises every driver error as a StoreError (or Conflict)."""

    def __init__(
        self, cursor: Cursor, dialect: Dialect, before: Callable[[], None] | None = None
    ) -> None:
        self.dialect = dialect
        self._cursor = cursor
        self._before = before

    def execute(self, sql: str, params: Sequence[Value] = ()) -> int:
        """Runs one statement. Returns how many rows it matched (changed or not)."""
        if self._before is not None:
            self._before()
        try:
            if params:
                self._cursor.execute(self.dialect.sql(sql), tuple(params))
            else:
                self._cursor.execute(sql)
        except self.dialect.driver_errors as error:
            raise self.dialect.translate(error) from error
        return self._cursor.rowcount

    def all(self, sql: str, params: Sequence[Value] = ()) -> list[Row]:
        """Returns all rows of a query, as tuples."""
        self.execute(sql, params)
        try:
            return [tuple(row) for row in self._cursor.fetchall()]
        except self.dialect.driver_errors as error:
            raise self.dialect.translate(error) from error

    def one(self, sql: str, params: Sequence[Value] = ()) -> Row | None:
        """Returns the only row of a query, or None if there is none."""
        rows = self.all(sql, params)
        return rows[0] if rows else None

    def now(self) -> int:
        """Returns microseconds since the epoch by the clock that all nodes share (the server's)."""
        if self.dialect.now_query is None:
            return time.time_ns() // 1000
        row = self.one(self.dialect.now_query)
        assert row is not None  # noqa: S101 - a SELECT without FROM has one row
        return int(row[0])

    def has_table(self, name: str) -> bool:
        return self.one(self.dialect.table_query, (name,)) is not None


class Backend(Protocol):
    """Access to a database. Made without I/O; connects on first use."""

    @property
    def dialect(self) -> Dialect: ...

    def run(self, work: Callable[[Session], T], *, readonly: bool, timeout: float | None) -> T:
        """Runs ``work`` in one transaction. ``timeout`` replaces ``Timeouts.statement`` if given.

        Commits when ``work`` returns, rolls back when it raises (BaseException included). Raises
        StoreError when there is no connection in time, and for the driver's errors.
        """
        ...

    def close(self) -> None:
        """Closes idle connections now, and those in use when they are returned."""
        ...
