"""The health of provider keys, per model: how the workers share cooldowns and counts.

Times are by the database's clock, and reports hold durations: the clocks of nodes may differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from proxy.store.audit import PendingEntry, note
from proxy.store.contention import persistently
from proxy.store.database import Database, Session, Value
from proxy.store.rows import from_micros, to_micros

_TABLE: Final = "provider_key_health"
_COLUMNS: Final = (
    "key_id, model, cooling_until, last_status, last_used_at, success_count, failure_count, "
    "reset_at, updated_at"
)
_SELECT: Final = f"SELECT {_COLUMNS} FROM {_TABLE}"  # noqa: S608 - constants
_KEYS: Final = ("key_id", "model")
_SUMS: Final = ("success_count", "failure_count")


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What one worker has seen of one key and model since its last report.

    An empty `model` stands for all models of the key.
    """

    key_id: str
    model: str
    #: For how many seconds from now the key is not to be used. None: no cooldown.
    cooling: float | None = None
    #: The status of the newest response. None: the key got none.
    status: int | None = None
    success_count: int = 0
    failure_count: int = 0


@dataclass(frozen=True, slots=True)
class KeyHealthRecord:
    """The sum of all reports on one key and model."""

    key_id: str
    model: str
    cooling_until: datetime | None
    last_status: int | None
    last_used_at: datetime | None
    success_count: int
    failure_count: int
    #: When an operator ended all cooldowns of the key: those from before this time are over.
    reset_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class HealthChanges:
    """Records in the order of their change, and the database's time of the query, in microseconds.

    Note: a change becomes visible when its transaction commits, so the next query must reach back,
    as for :mod:`proxy.store.changes`.
    """

    now: int
    records: list[KeyHealthRecord]


class KeyHealth:
    """The repository. All methods raise StoreError when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, reports: Sequence[KeyReport]) -> None:
        """Add reports: counts are summed, and of two cooldowns the one that ends later holds."""
        # In the order of the keys, so that two workers do not wait for each other.
        ordered = sorted(reports, key=lambda report: (report.key_id, report.model))

        def work(session: Session) -> None:
            for report in ordered:
                _add(session, report)

        if ordered:
            persistently(lambda: self._database.run(work))

    def read(self, since: int = 0) -> HealthChanges:
        """Return the records that changed after `since` (microseconds)."""

        def work(session: Session) -> HealthChanges:
            sql = f"{_SELECT} WHERE updated_at > ? ORDER BY updated_at, key_id, model"
            records = [_record_from(row) for row in session.all(sql, (since,))]
            return HealthChanges(session.now(), records)

        return self._database.run(work, readonly=True)

    def reset(self, key_id: str, audit: PendingEntry | None = None) -> None:
        """End all cooldowns of a key, on all nodes. Counts stay."""

        def work(session: Session) -> None:
            end_cooldowns(session, key_id)
            note(session, audit, None, {"provider_key_id": key_id})

        persistently(lambda: self._database.run(work))

    def prune(self, before: datetime, max_rows: int) -> int:
        """Delete records that no report changed since `before`, at most `max_rows` at once.

        Clients may name any model, so the records of a key have no natural end. Returns how many.
        """
        keys = ("updated_at", *_KEYS)
        sql = self._database.dialect.deleting(_TABLE, keys, "updated_at < ?")
        params = (to_micros(before), max_rows)
        return self._database.run(lambda session: session.execute(sql, params))

    def list(self, key_id: str | None = None) -> list[KeyHealthRecord]:
        """Return all records, or those of one key, by key and model."""
        condition, params = ("", ()) if key_id is None else (" WHERE key_id = ?", (key_id,))
        sql = f"{_SELECT}{condition} ORDER BY key_id, model"
        rows = self._database.run(lambda session: session.all(sql, params), readonly=True)
        return [_record_from(row) for row in rows]


def end_cooldowns(session: Session, key_id: str) -> None:
    """End all cooldowns of a key, on all nodes, within a transaction of the caller."""
    now = session.now()
    # A worker may cool the key for a model on which no report has come yet.
    session.execute(_upsert(session), (key_id, "", None, None, None, 0, 0, None, now))
    session.execute(
        f"UPDATE {_TABLE} SET cooling_until = NULL, reset_at = ?, updated_at = ? "  # noqa: S608
        "WHERE key_id = ?",
        (now, now, key_id),
    )


def _upsert(session: Session) -> str:
    return (
        f"INSERT INTO {_TABLE} ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
        + session.dialect.adding(_KEYS, _SUMS, _TABLE)
    )


def _add(session: Session, report: KeyReport) -> None:
    cell = (report.key_id, report.model)
    now = session.now()
    until = None if report.cooling is None else now + int(report.cooling * 1e6)
    used = now if report.success_count or report.failure_count else None
    counts = (report.success_count, report.failure_count)
    # It also locks the row, so that no other report comes between reading and writing.
    session.execute(_upsert(session), (*cell, None, None, None, *counts, None, now))
    row = session.one(f"{_SELECT} WHERE key_id = ? AND model = ?", cell)
    ends = [end for end in (until, None if row is None else row[2]) if end is not None]
    columns: dict[str, Value] = {"cooling_until": max(ends, default=None), "updated_at": now}
    if report.status is not None:
        columns["last_status"] = report.status
    if used is not None:
        columns["last_used_at"] = used
    session.execute(
        f"UPDATE {_TABLE} SET {', '.join(f'{name} = ?' for name in columns)} "  # noqa: S608
        "WHERE key_id = ? AND model = ?",
        (*columns.values(), *cell),
    )


def _record_from(row: Sequence[Any]) -> KeyHealthRecord:
    return KeyHealthRecord(
        key_id=row[0],
        model=row[1],
        cooling_until=None if row[2] is None else from_micros(row[2]),
        last_status=row[3],
        last_used_at=None if row[4] is None else from_micros(row[4]),
        success_count=row[5],
        failure_count=row[6],
        reset_at=None if row[7] is None else from_micros(row[7]),
        updated_at=from_micros(row[8]),
    )
