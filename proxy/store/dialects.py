"""The differences between databases, so that every repository is written once.

Repositories write ``?`` for a parameter, and otherwise only SQL that all databases share. Their SQL
must not contain a literal question mark or a quoted string.

To add a database: a dialect here, a backend beside ``sqlite.py`` and ``postgres.py``, a row in both
tables (:data:`DIALECTS` and the one in ``database.py``), a folder of migrations.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final

from proxy.core.errors import StoreError


class Conflict(StoreError):
    """A unique constraint was violated. Repositories turn it into a 409 that names the field."""

    code = "conflict"
    retry_after = None


class Deadlock(StoreError):
    """The database rolled the transaction back in favour of another one: it may be run again."""


class ReadOnly(StoreError):
    """The server takes no writes, such as an old primary after a failover.

    Nothing was executed. A new connection may lead to another server.
    """


class Dialect(ABC):
    """The SQL and the errors of one database. Stateless, except for the driver's error classes."""

    name: ClassVar[str]
    #: Appended to a SELECT inside a write transaction to keep others from changing the row.
    for_update: ClassVar[str]
    #: A query for one value: microseconds since the epoch. None: this machine's clock is used.
    now_query: ClassVar[str | None]
    #: A query that returns one row if the table named by its one parameter exists.
    table_query: ClassVar[str]
    #: Appended to the CREATE TABLE of the migrations' own table.
    table_options: ClassVar[str] = ""
    #: The query that takes the lock under which a migration runs; it waits at most a second and
    #: returns 1 or 0. None where the write transaction already is that lock. Then the query that
    #: releases it, or None where the lock ends with the transaction.
    take_migration_lock: ClassVar[str | None] = None
    return_migration_lock: ClassVar[str | None] = None
    #: Statements that make a transaction that was just begun, for reading, see one moment, however
    #: many statements it has.
    snapshot: ClassVar[Sequence[str]] = ()
    #: The driver's exceptions, for :meth:`translate`.
    driver_errors: tuple[type[Exception], ...]

    def sql(self, text: str) -> str:
        """Returns ``text`` with this driver's placeholders. Only for statements with parameters."""
        return text.replace("%", "%%").replace("?", "%s")

    @abstractmethod
    def begin(self, *, readonly: bool) -> str:
        """Returns the statement that opens a transaction."""

    @abstractmethod
    def is_conflict(self, error: Exception) -> bool:
        """True when the driver's ``error`` reports a violated unique constraint or primary key."""

    def is_deadlock(self, error: Exception) -> bool:
        """True when the database chose this transaction as the victim of a deadlock."""
        return False

    def is_read_only(self, error: Exception) -> bool:
        """True when the server takes no writes from any client."""
        return False

    def adding(self, keys: Sequence[str], sums: Sequence[str], table: str) -> str:
        """Returns a clause for an INSERT into ``table``: it adds to a row with these ``keys``."""
        added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
        return f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"

    def deleting(self, table: str, keys: Sequence[str], condition: str) -> str:
        """Returns a DELETE of the first rows with ``condition``, ordered by ``keys`` (the primary
        key). Its last parameter is their maximum. It reads only those rows and others with the same
        first key."""
        names = ", ".join(keys)
        return (
            f"DELETE FROM {table} WHERE ({names}) IN "  # noqa: S608 - fixed names
            f"(SELECT {names} FROM {table} WHERE {condition} ORDER BY {names} LIMIT ?)"
        )

    def translate(self, error: Exception) -> StoreError:
        """Returns the driver's ``error`` as a StoreError, to be raised ``from error``.

        The driver's own message names hosts, users and values, so it goes to the log (as the
        cause) and never to the client.
        """
        if self.is_conflict(error):
            return Conflict()
        if self.is_read_only(error):
            return ReadOnly("The proxy's database takes no writes right now.")
        return Deadlock() if self.is_deadlock(error) else StoreError()


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
        # at once (no busy timeout) if another process wrote meanwhile: lock from the start.
        return "BEGIN DEFERRED" if readonly else "BEGIN IMMEDIATE"

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode in (
            sqlite3.SQLITE_CONSTRAINT_UNIQUE,
            sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        )

    def is_read_only(self, error: Exception) -> bool:
        # The low byte is the code; the rest is the reason (such as that the file was moved away).
        code = getattr(error, "sqlite_errorcode", 0)
        return bool(code & 0xFF == sqlite3.SQLITE_READONLY)


#: ``error.args[:1]`` of a server that takes no writes: --read-only or --super-read-only (1290), a
#: read-only transaction by the server's default (1792), read-only mode (1836), a node of a Galera
#: cluster that is not part of the primary component (1047).
_MYSQL_READ_ONLY: Final = frozenset({(1290,), (1792,), (1836,), (1047,)})


class MysqlDialect(Dialect):
    """MySQL 8.4 and MariaDB 10.11, and newer: only the SQL that all of them understand."""

    name = "mysql"
    for_update = " FOR UPDATE"
    # The server's clock: nodes compare these times with each other's (changes since a time).
    # Not UNIX_TIMESTAMP(): it is made from local time, which repeats an hour when summer ends.
    now_query = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
    table_query = (
        "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?"
    )
    table_options = " ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    # GET_LOCK names belong to the server, not the database, and have at most 64 characters. MySQL
    # no longer has MD5().
    _lock_name = "CONCAT('proxy_migrate_', LEFT(SHA2(DATABASE(), 256), 32))"
    take_migration_lock = f"SELECT GET_LOCK({_lock_name}, 1)"
    return_migration_lock = f"SELECT RELEASE_LOCK({_lock_name})"
    # An isolation level is taken only before a transaction.
    snapshot = (
        "COMMIT",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )

    def __init__(self) -> None:
        from pymysql import err  # only when this database was picked

        self.driver_errors = (err.MySQLError,)
        self._integrity_error = err.IntegrityError
        self._operational_error = err.OperationalError

    def begin(self, *, readonly: bool) -> str:
        # A read-only server refuses READ WRITE (1290) before anything is executed. Without it, the
        # first write would fail.
        return f"START TRANSACTION READ {'ONLY' if readonly else 'WRITE'}"

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, self._integrity_error) and error.args[:1] == (1062,)

    def is_deadlock(self, error: Exception) -> bool:
        return isinstance(error, self._operational_error) and error.args[:1] == (1213,)

    def is_read_only(self, error: Exception) -> bool:
        return isinstance(error, self.driver_errors) and error.args[:1] in _MYSQL_READ_ONLY

    def adding(self, keys: Sequence[str], sums: Sequence[str], table: str) -> str:
        # Both have VALUES(); MariaDB lacks MySQL's newer alias.
        added = ", ".join(f"{name} = {table}.{name} + VALUES({name})" for name in sums)
        return f" ON DUPLICATE KEY UPDATE {added}"

    def deleting(self, table: str, keys: Sequence[str], condition: str) -> str:
        # A subquery cannot have a LIMIT here, but the statement itself can.
        return f"DELETE FROM {table} WHERE {condition} ORDER BY {', '.join(keys)} LIMIT ?"  # noqa: S608


class PostgresDialect(Dialect):
    """PostgreSQL 13 and newer."""

    name = "postgresql"
    for_update = " FOR UPDATE"
    # The server's clock at this moment: now() would be the start of the transaction.
    now_query = "SELECT ROUND(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT"
    # In the schema where CREATE TABLE would put it: the name may exist in a foreign schema.
    table_query = (
        "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = ?"
    )
    # One number per database: CREATE TABLE IF NOT EXISTS alone fails when two nodes run it at once.
    # The lock belongs to the transaction, so it also works behind a pooler. The scalar subquery is
    # evaluated only when it is needed.
    take_migration_lock = (
        "SELECT CASE WHEN pg_try_advisory_xact_lock(8102661242815999337) THEN 1 "
        "ELSE (SELECT 0 FROM pg_sleep(1)) END"
    )
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",)

    def __init__(self) -> None:
        import psycopg  # only when this database was picked

        self.driver_errors = (psycopg.Error,)
        self._unique_violation = psycopg.errors.UniqueViolation
        self._deadlock_detected = psycopg.errors.DeadlockDetected
        # A standby raises the second on BEGIN … READ WRITE.
        self._read_only = (
            psycopg.errors.ReadOnlySqlTransaction,
            psycopg.errors.FeatureNotSupported,
        )

    def begin(self, *, readonly: bool) -> str:
        # Set each time, because servers, databases and roles can have other defaults.
        mode = "READ ONLY" if readonly else "READ WRITE"
        return f"BEGIN ISOLATION LEVEL READ COMMITTED, {mode}"

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, self._unique_violation)

    def is_deadlock(self, error: Exception) -> bool:
        return isinstance(error, self._deadlock_detected)

    def is_read_only(self, error: Exception) -> bool:
        return isinstance(error, self._read_only)

    def deleting(self, table: str, keys: Sequence[str], condition: str) -> str:
        # By the rows' physical place: for a join by key the planner may read the whole table.
        return (
            f"DELETE FROM {table} WHERE ctid = ANY (ARRAY("  # noqa: S608 - fixed names
            f"SELECT ctid FROM {table} WHERE {condition} ORDER BY {', '.join(keys)} LIMIT ?))"
        )


#: Name (also the folder of its migrations, and the URL's scheme) → dialect.
DIALECTS: Final[Mapping[str, Callable[[], Dialect]]] = {
    "sqlite": SqliteDialect,
    "mysql": MysqlDialect,
    "postgresql": PostgresDialect,
}
