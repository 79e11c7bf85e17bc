"""What differs between databases, so that every repository is written once.

Repositories write ``?`` for a parameter and nothing else that a database might spell its own way;
a literal question mark or a quoted string has no place in their SQL.

To add a database: a dialect here, a backend beside ``sqlite.py`` and ``mysql.py``, a row in both
tables (:data:`DIALECTS` and the one in ``database.py``), a folder of migrations.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from proxy.errors import StoreError


class Conflict(StoreError):
    """A unique constraint was violated. Repositories turn it into a 409 that names the field."""

    code = "conflict"
    retry_after = None


class Dialect(ABC):
    """One database's ways. Stateless, but for the driver's error classes."""

    name: ClassVar[str]
    #: Appended to a SELECT inside a write transaction to keep others from changing the row.
    for_update: ClassVar[str]
    #: One row, one value: microseconds since the epoch. None: take this machine's clock.
    now_query: ClassVar[str | None]
    #: One row if the table named by the one parameter exists.
    table_query: ClassVar[str]
    #: Appended to the CREATE TABLE of the migrations' own table.
    table_options: ClassVar[str] = ""
    #: Takes and returns the lock under which migrations run, or None where the write transaction
    #: is that lock already. ``take`` waits a second at most and answers 1 or 0.
    take_migration_lock: ClassVar[str | None] = None
    return_migration_lock: ClassVar[str | None] = None
    #: Every exception of the driver, for :meth:`translate`.
    driver_errors: tuple[type[Exception], ...]

    @abstractmethod
    def sql(self, text: str) -> str:
        """``text`` with this driver's placeholders. Only for statements that have parameters."""

    @abstractmethod
    def begin(self, *, readonly: bool) -> str:
        """The statement that opens a transaction."""

    @abstractmethod
    def is_conflict(self, error: Exception) -> bool:
        """True when the driver's ``error`` is a violated unique constraint or primary key."""

    def translate(self, error: Exception) -> StoreError:
        """The driver's ``error`` as one of ours, to be raised ``from error``.

        The driver's own message names hosts, users and values, so it goes to the log (as the
        cause) and never to the client.
        """
        if self.is_conflict(error):
            return Conflict()
        return StoreError()


class SqliteDialect(Dialect):
    name = "sqlite"
    for_update = ""  # BEGIN IMMEDIATE has locked the whole file
    now_query = None
    table_query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    driver_errors = (sqlite3.Error,)

    def sql(self, text: str) -> str:
        return text

    def begin(self, *, readonly: bool) -> str:
        # A deferred transaction that writes later must upgrade its lock, and SQLite refuses that
        # at once (no busy timeout) when another process wrote meanwhile: lock from the start.
        return "BEGIN DEFERRED" if readonly else "BEGIN IMMEDIATE"

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode in (
            sqlite3.SQLITE_CONSTRAINT_UNIQUE,
            sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        )


class MysqlDialect(Dialect):
    """MySQL 8.4 and MariaDB 10.11: only what both understand."""

    name = "mysql"
    for_update = " FOR UPDATE"
    # The server's clock: nodes compare these times with each other's (what changed since?).
    # Not UNIX_TIMESTAMP(): it comes from local time, which repeats an hour when summer ends.
    now_query = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
    table_query = (
        "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?"
    )
    table_options = " ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    # GET_LOCK names are the server's, not the database's, and have 64 characters at most.
    take_migration_lock = "SELECT GET_LOCK(CONCAT('proxy_migrate_', MD5(DATABASE())), 1)"
    return_migration_lock = "SELECT RELEASE_LOCK(CONCAT('proxy_migrate_', MD5(DATABASE())))"

    def __init__(self) -> None:
        from pymysql import err  # only when this database was picked

        self.driver_errors = (err.MySQLError,)
        self._integrity_error = err.IntegrityError

    def sql(self, text: str) -> str:
        return text.replace("%", "%%").replace("?", "%s")

    def begin(self, *, readonly: bool) -> str:
        return "START TRANSACTION READ ONLY" if readonly else "START TRANSACTION"

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, self._integrity_error) and error.args[:1] == (1062,)


#: Name (also the folder of its migrations, and the URL's scheme) → dialect.
DIALECTS: Final[Mapping[str, Callable[[], Dialect]]] = {
    "sqlite": SqliteDialect,
    "mysql": MysqlDialect,
}
