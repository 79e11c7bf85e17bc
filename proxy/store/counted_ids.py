"""The events and responses that the ledger has already counted, each by its id.

A stored response reports its usage each time it is read, and is paid for once. Of the events that
name the same response of a project:

1. A generation (anything but a GET) always counts: servers that give every response the same id
   make nothing free.
2. A read (a GET: a poll, a resumed stream, the status of a batch) counts if nothing with this id
   has counted before. So a background response counts with the first read that reports its usage.
3. Events of several workers arrive in any order. A read that was counted before the event of an
   earlier generation arrived is taken back on that arrival.

Rows are written in the transaction that adds to the ledger, so all workers and nodes agree. A row::

    id         event id, or hash of project and response id: 32 hexadecimal digits
    forget_at  microseconds: from then on the row may be deleted
    reading    of an event: null. Of a response counted by a generation: its event id. Of one
               counted by a read, JSON: [end of the read in microseconds, its event id, hour
               in microseconds, token id, model, LLM tokens, the ledger's token counts]

An event that its response's row names has no row of its own.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

from proxy.store.database import Conflict, Database, Session
from proxy.store.rows import from_micros, to_micros

#: An event's id, the id of its response (None if it names none or reports no usage), whether it is
#: a read, its end in microseconds, its LLM tokens.
Mark = tuple[str, str | None, bool, int, int]
#: A row of the ledger, as in `usage.py`: its key of four, requests, errors, counts of tokens.
Entry = tuple[Any, ...]

#: Events are repeated within moments, or when a node that lost its power is up again.
_EVENTS_KEPT: Final = timedelta(days=1)
#: Ids in one query, rows in one INSERT: fewer parameters than the 999 that an old SQLite takes.
_PAGE: Final = 300
#: The fields of an entry before its counts of tokens.
_HEAD: Final = 6


def response_key(project_id: str, response_id: str) -> str:
    """Returns the id of a response's row: two projects may have responses with the same id."""
    named = f"{project_id}\0{response_id}".encode(errors="surrogatepass")
    return blake2b(named, digest_size=16).hexdigest()


class CountedIds:
    """``days`` is how long responses are remembered. With 0 none is, and each read counts."""

    def __init__(self, database: Database, days: int) -> None:
        self._database = database
        self._responses_kept = timedelta(days=days)

    def deduplicate(
        self,
        session: Session,
        entries: Sequence[Entry],
        marks: Sequence[Mark],
        *,
        all_new: bool = False,
    ) -> tuple[list[Entry], dict[str, int]]:
        """Returns the rows to add for ``entries``, corrections included, and remembers the events.

        The second result maps a token id to the LLM tokens of its reads, which no worker has
        charged; they may be negative. With ``all_new`` only reads are looked up, as nearly always
        nothing else is known; raises Conflict if something is.
        """
        keys = [
            None if mark[1] is None else response_key(entry[1], mark[1])
            for entry, mark in zip(entries, marks, strict=True)
        ]
        if all_new:
            names = {key for key, mark in zip(keys, marks, strict=True) if key and mark[2]}
        else:
            names = {mark[0] for mark in marks} | {key for key in keys if key is not None}
        keeps_responses = self._responses_kept > timedelta()
        batch = _Batch(_find(session, names), keeps_responses=keeps_responses)
        events = zip(entries, marks, keys, strict=True)
        for entry, mark, key in sorted(events, key=lambda event: event[1][3]):
            batch.add(entry, mark, key)
        for key, (event_id, reading) in sorted(batch.taken_back.items()):
            taken = "UPDATE counted_ids SET reading = ? WHERE id = ? AND reading = ?"
            if session.execute(taken, (event_id, key, reading)) != 1:
                raise Conflict  # another transaction has taken it back meanwhile: start over
        self._remember(session, batch.events, batch.responses)
        return batch.counted, {name: tokens for name, tokens in batch.spent.items() if tokens}

    def readers(self, names: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Returns, for each counted (project id, response id), the event id of the counted read, or
        an empty string if a generation counted. Raises StoreError."""
        keys = {response_key(*name): name for name in names}
        found = self._database.run(lambda session: _find(session, keys), readonly=True)
        return {
            keys[key]: _event_of(reading) if reading and _is_read(reading) else ""
            for key, reading in found.items()
        }

    def prune(self, now: datetime, max_rows: int) -> int:
        """Deletes expired rows, at most ``max_rows`` at once. Returns how many."""
        keys = ("forget_at", "id")
        sql = self._database.dialect.deleting("counted_ids", keys, "forget_at <= ?")
        return self._database.run(lambda session: session.execute(sql, (to_micros(now), max_rows)))

    def _remember(self, session: Session, events: Sequence[str], responses: dict[str, str]) -> None:
        now = session.now()
        later = now + _EVENTS_KEPT // timedelta(microseconds=1)
        rows: list[tuple[str, int, str | None]] = [(event_id, later, None) for event_id in events]
        if self._responses_kept:
            later = now + self._responses_kept // timedelta(microseconds=1)
            rows += [(name, later, reading) for name, reading in responses.items()]
        # The same order everywhere makes fewer deadlocks. Two transactions that add the same row
        # collide at its key, and the loser starts over.
        for page in _pages(sorted(rows)):
            rows_sql = ", ".join(["(?, ?, ?)"] * len(page))
            session.execute(
                f"INSERT INTO counted_ids (id, forget_at, reading) VALUES {rows_sql}",  # noqa: S608
                [value for row in page for value in row],
            )


class _Batch:
    """The events of one transaction, in the order of their ends.

    ``known`` maps the ids of existing rows to ``reading``. ``keeps_responses`` says whether rows of
    responses are written at all.
    """

    def __init__(self, known: dict[str, str | None], *, keeps_responses: bool) -> None:
        self._known = known
        self._keeps_responses = keeps_responses
        self.counted: list[Entry] = []
        #: Maps a token id to the LLM tokens of its reads.
        self.spent: dict[str, int] = {}
        #: New rows of events; new rows of responses with their `reading`; changed rows with their
        #: new and old `reading`.
        self.events: list[str] = []
        self.responses: dict[str, str] = {}
        self.taken_back: dict[str, tuple[str, str]] = {}

    def add(self, entry: Entry, mark: Mark, key: str | None) -> None:
        event_id, _, is_read, ended, total = mark
        reading = None if key is None else self._known.get(key)
        if event_id in self._known or (reading and _event_of(reading) == event_id):
            return
        self._known[event_id] = None
        is_named = False
        if key is not None:
            if not self._keeps_responses:
                self._spend(entry[2], total if is_read else 0)
            elif not is_read:
                is_named = self._generate(key, entry, ended, event_id)
            elif reading is not None:
                entry = (*entry[:_HEAD], *[0] * (len(entry) - _HEAD))
            else:
                self._spend(entry[2], total)
                hour, _, token_id, model = entry[:4]
                read = [ended, event_id, to_micros(hour), token_id, model, total, *entry[_HEAD:]]
                self._known[key] = self.responses[key] = json.dumps(read)
                is_named = True
        if not is_named:
            self.events.append(event_id)
        self.counted.append(entry)

    def _generate(self, key: str, entry: Entry, ended: int, event_id: str) -> bool:
        """Counts a generation. Returns whether the response's row names this event."""
        reading = self._known.get(key)
        if reading is None:
            self._known[key] = self.responses[key] = event_id
            return True
        if not _is_read(reading) or json.loads(reading)[0] < ended:
            return False
        back, token_id, tokens = _taken_back(reading, entry)
        self.counted.append(back)
        self._spend(token_id, -tokens)
        # The read has no row of its own, and must still be recognised.
        self.events.append(_event_of(reading))
        self._known[_event_of(reading)] = None
        self._known[key] = event_id
        if key in self.responses:
            self.responses[key] = event_id
        else:
            self.taken_back[key] = (event_id, reading)
        return True

    def _spend(self, token_id: str, tokens: int) -> None:
        self.spent[token_id] = self.spent.get(token_id, 0) + tokens


def _is_read(reading: str) -> bool:
    return reading.startswith("[")


def _event_of(reading: str) -> str:
    """Returns the id of the event that counted a response."""
    return str(json.loads(reading)[1]) if _is_read(reading) else reading


def _taken_back(reading: str, entry: Entry) -> tuple[Entry, str, int]:
    """Returns the entry that undoes a counted read, the token it was charged to, its LLM tokens."""
    _, _, hour, token_id, model, total, *counts = json.loads(reading)
    # A row written before the ledger had its present columns has fewer counts.
    counts = [-count for count in counts] + [0] * (len(entry) - _HEAD - len(counts))
    return (from_micros(hour), entry[1], token_id, model, 0, 0, *counts), token_id, total


def _find(session: Session, names: Iterable[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for page in _pages(sorted(names)):
        marks = ", ".join("?" * len(page))
        rows = session.all(f"SELECT id, reading FROM counted_ids WHERE id IN ({marks})", page)  # noqa: S608
        found.update((str(row[0]), row[1]) for row in rows)
    return found


def _pages(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _PAGE] for start in range(0, len(items), _PAGE))
