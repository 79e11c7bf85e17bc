"""The usage ledger: usage per hour, project, token and model.

Events arrive at least once, so the ledger remembers what it has added: for each source (one
writer's spool) the position after its last line moves in the transaction that adds its lines. An
event that is repeated by another source is recognised by its id, and a response that is only read
again by the response's id (:mod:`proxy.store.counted_ids`).

Note: a source's name must never stand for two spools, or the lines of one would pass for lines of
the other that were added long ago.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from operator import add
from typing import Final

from proxy.runtime.cpu_turns import yield_cpu_every
from proxy.store.contention import persistently
from proxy.store.counted_ids import CountedIds, Mark
from proxy.store.counters import charge
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.dialects import Deadlock
from proxy.store.rows import from_micros, to_micros

#: Segment number and byte offset in it, compared as a tuple.
Position = tuple[int, int]
#: The start of the hour (UTC), project id, token id, model; requests, errors, prompt tokens,
#: completion tokens, cached tokens, reasoning tokens, estimated prompt and completion tokens, cache
#: hits, saved prompt and completion tokens.
Entry = tuple[datetime, str, str, str, int, int, int, int, int, int, int, int, int, int, int]

_KEYS: Final = ("hour", "project_id", "token_id", "model")
_SUMS: Final = (
    "requests",
    "errors",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "estimated_prompt_tokens",
    "estimated_completion_tokens",
    "cache_hits",
    "saved_prompt_tokens",
    "saved_completion_tokens",
)
_WIDTH: Final = len(_KEYS) + len(_SUMS)
#: Rows in one INSERT: no more parameters than the 999 that an old SQLite takes.
_ROWS: Final = 999 // _WIDTH
#: A source that was silent for so long is gone with its spool: its position may be deleted.
_FORGOTTEN_AFTER: Final = timedelta(days=90)
_FORGOTTEN_AT_ONCE: Final = 100

#: The groups of :meth:`UsageLedger.sums` → their columns.
GROUPS: Final = {"project": "project_id", "token": "token_id", "model": "model", "hour": "hour"}


@dataclass(frozen=True, slots=True)
class UsageSums:
    """One group. Keys that were not grouped by are None, and so are their names and names that no
    longer exist."""

    hour: datetime | None
    project_id: str | None
    token_id: str | None
    #: Empty where no response named its model.
    model: str | None
    project_name: str | None
    token: str | None
    token_name: str | None
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    #: Estimates for responses that reported no usage; in none of the counts above.
    estimated_prompt_tokens: int
    estimated_completion_tokens: int
    #: Requests served from the response cache, and what their responses had cost once; in none of
    #: the counts of LLM tokens above.
    cache_hits: int
    saved_prompt_tokens: int
    saved_completion_tokens: int


class UsageLedger:
    """Adds to the ledger and sums it. Times are aware datetimes.

    All methods raise StoreError when the database does not respond.
    """

    def __init__(self, database: Database, *, counted_ids_days: int = 7) -> None:
        self._database = database
        self.counted = CountedIds(database, counted_ids_days)

    def position(self, source: str) -> Position | None:
        """Returns the position after the last added line of ``source``, or None if none was."""

        def work(session: Session) -> Position | None:
            sql = "SELECT segment, byte_offset FROM usage_positions WHERE source = ?"
            row = session.one(sql, (source,))
            return None if row is None else (int(row[0]), int(row[1]))

        return self._database.run(work, readonly=True)

    def apply(
        self,
        source: str,
        after: Position | None,
        upto: Position,
        entries: Sequence[Entry],
        marks: Sequence[Mark] = (),
    ) -> bool:
        """Adds ``entries``, which are the lines of ``source`` from ``after`` up to ``upto``.

        ``marks`` has one mark for each entry. Events that were added earlier, from any source, add
        nothing. Without marks all are added. The usage of reads is charged to their tokens.

        Returns False, and changes nothing, if the position of ``source`` is no longer ``after``. So
        the call may be repeated after any error, even if it is unknown whether it had succeeded.
        """

        def work(session: Session, *, all_new: bool = False) -> bool:
            if not _move(session, source, after, upto):
                return False
            counted: Sequence[Entry] = entries
            spent: dict[str, int] = {}
            if marks:
                counted, spent = self.counted.deduplicate(session, entries, marks, all_new=all_new)
            rows = sorted(_summed(counted))  # the same order everywhere: fewer deadlocks
            for start in range(0, len(rows), _ROWS):
                _add(session, rows[start : start + _ROWS])
            charge(session, spent)
            return True

        # Unique keys collide when two begin with the same source, or (in InnoDB) the same row.
        try:
            applied = self._database.run(partial(work, all_new=True))
        except (Conflict, Deadlock):
            applied = persistently(lambda: self._database.run(work))
        if applied and after is None:
            self._forget_sources()
        return applied

    def sums(
        self,
        start: datetime,
        end: datetime,
        group_by: Sequence[str],
        *,
        project_id: str | None = None,
        token_id: str | None = None,
        model: str | None = None,
        limit: int,
    ) -> list[UsageSums]:
        """Sums the hours that begin in [``start``, ``end``), grouped by some of :data:`GROUPS`.

        Returns at most ``limit`` groups, in the order of these keys.
        """
        conditions: list[tuple[str, Value]] = [
            ("hour >= ?", to_micros(start)),
            ("hour < ?", to_micros(end)),
        ]
        for column, value in (("project_id", project_id), ("token_id", token_id), ("model", model)):
            if value is not None:
                conditions.append((f"{column} = ?", value))
        sql = _query([GROUPS[name] for name in group_by], [text for text, _ in conditions])
        params = [*(value for _, value in conditions), limit]
        rows = self._database.run(lambda session: session.all(sql, params), readonly=True)
        return [
            UsageSums(
                None if row[0] is None else from_micros(int(row[0])),
                *row[1:7],
                *(int(value) for value in row[7:]),  # SUM() is a DECIMAL in some databases
            )
            for row in rows
        ]

    def prune(self, before: datetime, max_rows: int) -> int:
        """Deletes the oldest rows of the hours that ended ``before``, at most ``max_rows`` at once.

        Returns how many.
        """
        sql = self._database.dialect.deleting("usage_hourly", _KEYS, "hour <= ?")
        params = (to_micros(before - timedelta(hours=1)), max_rows)
        return self._database.run(lambda session: session.execute(sql, params))

    def _forget_sources(self) -> None:
        def work(session: Session) -> None:
            before = session.now() - _FORGOTTEN_AFTER // timedelta(microseconds=1)
            # Found without a lock, so that it does not wait for a source at work.
            found = session.all(
                "SELECT source FROM usage_positions WHERE updated_at < ? ORDER BY source LIMIT ?",
                (before, _FORGOTTEN_AT_ONCE),
            )
            for (source,) in found:
                session.execute(
                    "DELETE FROM usage_positions WHERE source = ? AND updated_at < ?",
                    (source, before),
                )

        persistently(lambda: self._database.run(work))


def _summed(entries: Sequence[Entry]) -> list[tuple[Value, ...]]:
    """Returns rows with each key once: an INSERT must not collide with a row of its own."""
    sums: dict[tuple[datetime, str, str, str], tuple[int, ...]] = {}
    for entry in yield_cpu_every(entries):
        key, counts = entry[:4], entry[4:]
        known = sums.get(key)
        sums[key] = counts if known is None else tuple(map(add, known, counts))
    return [(to_micros(hour), *names, *counts) for (hour, *names), counts in sums.items()]


def _move(session: Session, source: str, after: Position | None, upto: Position) -> bool:
    """Compares and sets the position, which is then locked to the end of the transaction."""
    now = session.now()
    if after is not None:
        sql = (
            "UPDATE usage_positions SET segment = ?, byte_offset = ?, updated_at = ? "
            "WHERE source = ? AND segment = ? AND byte_offset = ?"
        )
        return session.execute(sql, (*upto, now, source, *after)) == 1
    if session.one("SELECT 1 FROM usage_positions WHERE source = ?", (source,)) is not None:
        return False
    session.execute(
        "INSERT INTO usage_positions (source, segment, byte_offset, updated_at) "
        "VALUES (?, ?, ?, ?)",
        (source, *upto, now),
    )
    return True


def _add(session: Session, rows: Sequence[Sequence[Value]]) -> None:
    rows_sql = ", ".join([f"({', '.join('?' * _WIDTH)})"] * len(rows))
    session.execute(
        f"INSERT INTO usage_hourly ({', '.join(_KEYS + _SUMS)}) VALUES {rows_sql}"  # noqa: S608
        + session.dialect.adding(_KEYS, _SUMS, "usage_hourly"),
        [value for row in rows for value in row],
    )


def _query(columns: Sequence[str], conditions: Sequence[str]) -> str:
    """Builds the query from fixed names only. It sums first, and only then looks up names."""
    keys = ", ".join(columns)
    totals = ", ".join(f"SUM({name}) AS {name}" for name in _SUMS)
    chosen = [f"s.{name}" if name in columns else "NULL" for name in _KEYS]
    names, joins = ["NULL", "NULL", "NULL"], ""
    if "project_id" in columns:
        names[0] = "p.name"
        joins += " LEFT JOIN projects p ON p.id = s.project_id"
    if "token_id" in columns:
        names[1:] = "t.token_mask", "t.name"
        joins += " LEFT JOIN tokens t ON t.id = s.token_id"
    shown = ", ".join([*chosen, *names, *(f"s.{name}" for name in _SUMS)])
    return (
        f"SELECT {shown} FROM (SELECT {keys}, {totals} FROM usage_hourly "  # noqa: S608
        f"WHERE {' AND '.join(conditions)} GROUP BY {keys} ORDER BY {keys} LIMIT ?) s{joins} "
        f"ORDER BY {', '.join(f's.{name}' for name in columns)}"
    )
