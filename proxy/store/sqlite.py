"""The backend for SQLite: one connection, on a native thread of its own.

sqlite3 blocks the thread it is called on (a lock held by another process blocked every greenlet
of a worker for 1.5 s), so the whole unit of work runs on that thread and the greenlet only waits.
The same code serves a process without gevent's patches (``manage.py db migrate``).

The connection must never cross a fork: SQLite forbids it (sqlite.org/howtocorrupt.html, 2.6).
"""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool

from proxy.core.errors import StoreError
from proxy.store.dialects import ReadOnly, SqliteDialect
from proxy.store.session import Session, Timeouts

T = TypeVar("T")

EXPECTED = "expected sqlite:///relative/path.db or sqlite:////absolute/path.db"


def path_from_url(url: str) -> Path:
    """Returns the absolute path in ``url``. Raises ValueError for other than the two forms."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment:
        raise ValueError(EXPECTED)
    path = path.removeprefix("/")
    # ":memory:" would be a separate database in every worker: they would see different tokens.
    if not path or path.endswith("/") or path == ":memory:" or "\x00" in path:
        raise ValueError(EXPECTED)
    return Path(path).absolute()


class SqliteBackend:
    """See :class:`proxy.store.session.Backend`. ``Timeouts.connect`` has no meaning here."""

    def __init__(self, path: Path, timeouts: Timeouts) -> None:
        self.dialect = SqliteDialect()
        self._path = path
        self._timeouts = timeouts
        # The holder of the gate owns the thread. The gate is released when the thread is done,
        # which may be after the greenlet's timeout. Connection and thread start on first use.
        self._gate = BoundedSemaphore(1)
        self._thread: ThreadPool | None = None
        self._connection: sqlite3.Connection | None = None

    def run(self, work: Callable[[Session], T], *, readonly: bool, timeout: float | None) -> T:
        if not self._gate.acquire(timeout=self._timeouts.wait):
            raise StoreError("The proxy's database is too busy right now.")
        job = _Job(work, self.dialect.begin(readonly=readonly))
        try:
            if self._thread is None:
                self._thread = ThreadPool(1)
            done = self._thread.spawn(self._perform, job)
        except BaseException:
            self._gate.release()
            raise
        done.rawlink(lambda _: self._gate.release())
        try:
            done.wait(self._timeouts.statement if timeout is None else timeout)
        except BaseException:
            self._cancel(job)
            raise
        if not done.ready():
            self._cancel(job)
            raise StoreError("The proxy's database did not respond in time.")
        if job.error is not None:
            raise job.error
        value: T = job.value
        return value

    def close(self) -> None:
        if self._thread is None or not self._gate.acquire(timeout=self._timeouts.wait):
            return
        try:
            self._thread.spawn(self._drop).wait(self._timeouts.wait)
            self._thread.kill()
            self._thread = None
        finally:
            self._gate.release()

    def _cancel(self, job: "_Job") -> None:
        job.cancelled = True
        if self._connection is not None:
            self._connection.interrupt()  # safe from another thread, unlike all else

    # The methods below run on the thread.

    def _perform(self, job: "_Job") -> None:
        # Never raises: gevent would print the traceback of an exception that leaves a pool thread.
        try:
            connection = self._connection = self._connection or self._open()
            session = Session(connection.cursor(), self.dialect, job.check)
            session.execute(job.begin)
            job.value = job.work(session)
            session.execute("COMMIT")
        except self.dialect.driver_errors as error:
            job.error = self.dialect.translate(error)
            job.error.__cause__ = error
        except OSError as error:
            job.error = StoreError()
            job.error.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - handed to the waiting greenlet
            job.error = error
        if isinstance(job.error, ReadOnly):
            self._drop()  # the file may have been replaced, or be writable again
        elif job.error is not None:
            self._roll_back()

    def _roll_back(self) -> None:
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
        except sqlite3.Error:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Created here, because SQLite would make it readable by all; -wal and -shm copy its mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(
            self._path,
            timeout=self._timeouts.statement
            * 0.8,  # SQLite's "busy" must come before our own timeout
            isolation_level=None,  # transactions are explicit: sqlite3 has no BEGIN IMMEDIATE
            check_same_thread=False,  # one thread at a time by the gate; interrupt() from outside
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        # FULL: a revocation with the response 204 survives a power cut. NORMAL may lose the last
        # commits in WAL mode (sqlite.org/pragma.html), and commits are rare: counts are batched.
        connection.execute("PRAGMA synchronous = FULL")
        # The change to WAL needs exclusive use of the file and does not wait for it: two workers
        # that open a new file together collide here.
        deadline = time.monotonic() + self._timeouts.statement * 0.8
        sleep: Callable[[float], None] = monkey.get_original("time", "sleep")
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                sleep(0.01)


class _Job:
    """A unit of work that the greenlet passes to the thread, and its result."""

    def __init__(self, work: Callable[[Session], Any], begin: str) -> None:
        self.work = work
        self.begin = begin
        self.value: Any = None
        self.error: BaseException | None = None
        #: Set by the greenlet when it gives up; read by the thread before each statement.
        self.cancelled = False

    def check(self) -> None:
        if self.cancelled:
            raise StoreError("The proxy's database did not respond in time.")
