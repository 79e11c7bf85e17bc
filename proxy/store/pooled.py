"""The base of the MySQL and PostgreSQL backends: a DBUtils pool, used by the calling greenlet.

PooledDB holds its lock while it connects, pings and rolls back, so it must do none of these:
connections are made unconnected and connected afterwards, pinging and resetting are off, and a
semaphore in front of the pool bounds every wait. SteadyDB would repeat a failed statement on a new
connection, and a repeated write may count twice, so statements run on the raw connection.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import gevent
from dbutils.pooled_db import PooledDB
from gevent.lock import BoundedSemaphore

from proxy.core.errors import StoreError
from proxy.store.dialects import Dialect, ReadOnly
from proxy.store.session import Cursor, Session, Timeouts

T = TypeVar("T")

_FOLLOW_PAUSE: Final = 1.0


class Connection(Protocol):
    """A pooled connection: made without I/O, connected and discarded any number of times.

    Its methods raise the driver's errors.
    """

    #: The pool's epoch when it was connected.
    epoch: int

    @property
    def open(self) -> bool:
        """Whether it is connected, as far as this side knows."""
        ...

    def connect(self) -> Any: ...
    def cursor(self) -> Cursor: ...
    def rollback(self) -> Any: ...
    def close(self) -> Any: ...

    def discard(self) -> None:
        """Closes the socket without waiting; the next user connects again."""
        ...


class PooledBackend(ABC):
    """See :class:`proxy.store.session.Backend`."""

    def __init__(self, dialect: Dialect, pool_size: int, timeouts: Timeouts) -> None:
        self.dialect = dialect
        self._timeouts = timeouts
        # Counts connections as PooledDB does, but with a bounded wait.
        self._gate = BoundedSemaphore(pool_size)
        # Incremented when a pooled connection leads to a server that takes no writes, and when
        # writes work again: every older connection is then replaced before its next use.
        self._epoch = 0
        # Monotonic seconds of the last refused write; None once a write succeeded.
        self._refused_at: float | None = None
        self._closed = False
        self._pool = PooledDB(
            # Never the driver's class: PooledDB takes an object with connect() for a driver module.
            lambda: self._make(timeouts.statement),
            maxcached=pool_size,
            maxconnections=pool_size,
            blocking=False,
            reset=False,
            ping=0,
            failures=dialect.driver_errors,
        )

    @abstractmethod
    def _make(self, statement: float) -> Connection:
        """Returns a new, unconnected connection. ``statement``: its statement timeout, seconds."""

    def _begin_sql(self, readonly: bool, statement: float) -> str:
        return self.dialect.begin(readonly=readonly)

    def _commit(self, connection: Any, session: Session) -> None:
        session.execute("COMMIT")

    def run(self, work: Callable[[Session], T], *, readonly: bool, timeout: float | None) -> T:
        if timeout is not None:
            return self._run_apart(work, readonly, timeout)
        if not self._gate.acquire(timeout=self._timeouts.wait):
            raise StoreError("The proxy's database is too busy right now.")
        try:
            pooled = self._pool.connection(shareable=False)
            try:
                connection: Connection = pooled.dbapi_connection
                begin = self._begin_sql(readonly, self._timeouts.statement)
                value = self._transact(connection, work, begin)
                if self._refused_at is not None and not readonly:
                    self._refused_at = None
                    self._epoch += 1
                return value
            except ReadOnly:
                self._follow(connection)
                raise
            finally:
                if self._closed:
                    connection.discard()
                pooled.close()  # returns it to the pool
        finally:
            self._gate.release()

    def close(self) -> None:
        self._closed = True
        self._pool.close()

    def _run_apart(self, work: Callable[[Session], T], readonly: bool, timeout: float) -> T:
        # Long work (a migration) has a timeout of its own, on a connection outside the pool.
        connection = self._make(timeout)
        try:
            return self._transact(connection, work, self._begin_sql(readonly, timeout))
        finally:
            with contextlib.suppress(*self.dialect.driver_errors):
                connection.close()

    def _transact(self, connection: Connection, work: Callable[[Session], T], begin: str) -> T:
        session = self._begin(connection, begin)
        try:
            value = work(session)
            self._commit(connection, session)
        except ReadOnly:
            connection.discard()
            raise
        except Exception:
            self._roll_back(connection)
            raise
        except BaseException:
            # Killed, or timed out from outside, perhaps in the middle of a packet: the next bytes
            # on this connection may belong to another statement.
            connection.discard()
            raise
        return value

    def _begin(self, connection: Connection, statement: str) -> Session:
        # BEGIN is the probe: a pooled connection that the server has dropped meanwhile fails
        # here, before anything was executed, so one more try on a new one repeats nothing.
        # One limit covers all of it: name lookup has none of its own, and a handshake may arrive
        # byte by byte.
        limit = self._timeouts.connect + self._timeouts.statement
        try:
            with gevent.Timeout(limit, StoreError("The proxy's database did not respond in time.")):
                if connection.open and connection.epoch == self._epoch:
                    try:
                        return self._begun(connection, statement)
                    except ReadOnly:
                        self._follow(connection)
                    except StoreError:
                        pass
                connection.discard()
                connection.epoch = self._epoch
                try:
                    connection.connect()
                except self.dialect.driver_errors as error:
                    raise self.dialect.translate(error) from error
                return self._begun(connection, statement)
        except BaseException:
            connection.discard()
            raise

    def _begun(self, connection: Connection, statement: str) -> Session:
        session = Session(connection.cursor(), self.dialect)
        session.execute(statement)
        return session

    def _follow(self, connection: Connection) -> None:
        """Marks all connections for replacement, after the server behind ``connection`` refused a
        write: others may lead to the same server.

        At most once a second: if the address leads to no other server, readers keep their
        connections.
        """
        now = time.monotonic()
        recently = self._refused_at is not None and now - self._refused_at < _FOLLOW_PAUSE
        if connection.epoch == self._epoch and not recently:
            self._epoch += 1
        self._refused_at = now

    def _roll_back(self, connection: Connection) -> None:
        if not connection.open:
            return
        try:
            connection.rollback()
        except self.dialect.driver_errors:
            connection.discard()
        except BaseException:
            connection.discard()
            raise
