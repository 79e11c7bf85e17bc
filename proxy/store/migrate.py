"""Migrations of the schema: numbered SQL files, applied once each, one transaction each, locked.

Two nodes may start at the same moment, and then share the work. Where the database commits after
every DDL statement (MySQL), a migration must be written so that it can run again after it was cut
off half-way.
"""

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from proxy.core.errors import SchemaOutdated, StoreError
from proxy.store.database import Database, Session
from proxy.store.dialects import DIALECTS
from proxy.store.rows import from_micros

#: Seconds that a migration may take, and for which another node waits for it.
MIGRATION_TIMEOUT: Final = 600.0
_LOCK_ATTEMPTS: Final = 120  # of a second each

OUTDATED: Final = 'the database schema is old: run "python manage.py db migrate"'
TOO_NEW: Final = (
    "the database schema is newer than this version of the proxy (it has migration {}): "
    "run the newer version"
)

_FOLDER: Final = Path(__file__).parent / "migrations"
_FILE_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_HISTORY: Final = (
    "CREATE TABLE IF NOT EXISTS schema_migrations (\n"
    "    version    INTEGER      NOT NULL PRIMARY KEY,\n"
    "    name       VARCHAR(255) NOT NULL,\n"
    "    applied_at BIGINT       NOT NULL\n"
    ")"
)
_SCHEMA_HEADER: Final = """\
-- The newest schema for MySQL and MariaDB: for reading, and for people who would rather apply it
-- themselves than run `python manage.py db migrate`. Made from proxy/store/migrations/mysql, so
-- change it there, then:
--
--   python -c 'import proxy.store.migrate as m; print(m.schema_sql(), end="")' > schema.sql\
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: ``0001_initial.sql`` is number 1, named ``initial``."""

    number: int
    name: str
    sql: str

    @property
    def statements(self) -> list[str]:
        """The SQL without comments, cut at each semicolon that ends a line."""
        text = re.sub(r"^\s*--.*$", "", self.sql, flags=re.MULTILINE)
        return [part.strip() for part in re.split(r";[ \t]*$", text, flags=re.M) if part.strip()]


class Status(NamedTuple):
    number: int
    name: str
    #: None if it is not applied yet.
    applied_at: datetime | None


def load(dialect_name: str) -> Sequence[Migration]:
    """Returns a dialect's migrations in order. Raises ValueError for a gap or another file name."""
    return _read(_FOLDER / dialect_name)


@lru_cache  # a worker compares every few seconds, and must not read a disk that may be slow
def _read(folder: Path) -> Sequence[Migration]:
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or int(match[1]) != len(found) + 1:
            raise ValueError(f"migrations are numbered without gaps: {path.name} is not next")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    return tuple(found)


class Migrator:
    """Brings one database to the newest schema. Methods raise StoreError and SchemaOutdated."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._migrations = load(database.dialect.name)

    def status(self) -> list[Status]:
        """Returns every migration that this version knows, in order.

        Raises SchemaOutdated if the database has migrations that this version does not know.
        """
        applied = self._database.run(_applied, readonly=True)
        self._refuse_newer(applied)
        return [
            Status(
                migration.number,
                migration.name,
                from_micros(applied[migration.number]) if migration.number in applied else None,
            )
            for migration in self._migrations
        ]

    def pending(self) -> list[Status]:
        """Returns the migrations that are not applied yet."""
        return [status for status in self.status() if status.applied_at is None]

    def migrate(self) -> list[Status]:
        """Applies the pending migrations and returns them (none if another node applied them).

        If one fails, those before it stay applied.
        """

        def work(session: Session) -> int | None:
            return _locked(session, self._apply_next)

        done: set[int] = set()
        while (number := self._database.run(work, timeout=MIGRATION_TIMEOUT)) is not None:
            done.add(number)
        return [status for status in self.status() if status.number in done]

    def _apply_next(self, session: Session) -> int | None:
        """Returns the number of the migration it applied, or None if none was left."""
        session.execute(_HISTORY + session.dialect.table_options)
        applied = _applied(session)
        self._refuse_newer(applied)
        for migration in self._migrations:
            if migration.number not in applied:
                break
        else:
            return None
        for statement in migration.statements:
            session.execute(statement)
        session.execute(
            "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, ?)",
            (migration.number, migration.name, session.now()),
        )
        return migration.number

    def _refuse_newer(self, applied: dict[int, int]) -> None:
        newest = max(applied, default=0)
        if newest > len(self._migrations):
            raise SchemaOutdated(TOO_NEW.format(newest))


def check_schema(database: Database) -> None:
    """Raises SchemaOutdated, which says what to do, unless the schema is this version's.

    Takes two small queries.
    """
    if Migrator(database).pending():
        raise SchemaOutdated(OUTDATED)


def schema_sql() -> str:
    """Returns ``schema.sql``: the statements that bring an empty MySQL database to the newest
    migration."""
    dialect = DIALECTS["mysql"]()
    now = (dialect.now_query or "").removeprefix("SELECT ")
    parts = [_SCHEMA_HEADER, f"{_HISTORY}{dialect.table_options};"]
    for migration in load("mysql"):
        parts.append(f"-- {migration.number:04} {migration.name}\n\n{migration.sql.strip()}")
        parts.append(
            "INSERT INTO schema_migrations (version, name, applied_at)\n"
            f"VALUES ({migration.number}, '{migration.name}', {now});"
        )
    return "\n\n".join(parts) + "\n"


def _applied(session: Session) -> dict[int, int]:
    """Returns the applied migrations: number → microseconds since the epoch."""
    if not session.has_table("schema_migrations"):
        return {}
    return {
        int(row[0]): int(row[1])
        for row in session.all("SELECT version, applied_at FROM schema_migrations")
    }


def _locked(session: Session, work: Callable[[Session], int | None]) -> int | None:
    take, release = session.dialect.take_migration_lock, session.dialect.return_migration_lock
    if take is None:
        return work(session)
    # The wait goes second by second: one long wait would hit the connection's own timeout.
    for _ in range(_LOCK_ATTEMPTS):
        if session.one(take) == (1,):
            break
    else:
        raise StoreError("another node is migrating this database and does not finish")
    try:
        return work(session)
    finally:
        if release is not None:
            # A broken connection has released the lock by itself.
            with contextlib.suppress(StoreError):
                session.one(release)
