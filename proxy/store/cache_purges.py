"""Purges of stored responses: a log that every node follows, since each has a store of its own.

A purge of all that one project has is no entry of it: a new cache epoch of the project does that
(:meth:`proxy.store.projects.Projects.purge_responses`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import orjson

from proxy.store.audit import PendingEntry, note
from proxy.store.database import Database, Session
from proxy.store.revisions import bump
from proxy.store.rows import to_micros

#: The revision that changes with every purge.
PURGES_REVISION: Final = "cache_purges"
#: Purges in one result.
MAX_PURGES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """The responses that are deleted: those that match all that is given. Nothing: all of them.

    `target` is the whole request target, with its query; `prefix` is what it begins with; `key` is
    the name of a cache key, as in `X-Cache-Key`.
    """

    project_id: str | None = None
    method: str | None = None
    target: str | None = None
    prefix: str | None = None
    key: str | None = None

    def audited(self) -> dict[str, str]:
        """Returns what an audit entry says of it: without a query, which may hold a secret."""
        given = {"method": self.method, "url": self.target, "prefix": self.prefix, "key": self.key}
        return {name: value.partition("?")[0] for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class LoggedPurge:
    """A purge and its time in microseconds, which is later than that of the purge before."""

    moment: int
    purge: Purge


class CachePurges:
    """The log. All methods raise StoreError when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> int:
        """Returns the time of the database, in microseconds."""
        return self._database.run(lambda session: session.now(), readonly=True)

    def add(self, purge: Purge, audit: PendingEntry | None = None) -> None:
        """Adds a purge. Workers learn of it as of every change of the revision, which the caller
        announces."""

        def work(session: Session) -> None:
            # The revision stays locked, so that purges become visible in the order of their times.
            moment = bump(session, PURGES_REVISION)
            given = {name: value for name, value in asdict(purge).items() if value is not None}
            session.execute(
                "INSERT INTO cache_purges (moment, selection) VALUES (?, ?)",
                (moment, orjson.dumps(given).decode()),
            )
            note(session, audit, purge.project_id, purge.audited())

        self._database.run(work)

    def since(self, moment: int) -> Sequence[LoggedPurge]:
        """Returns the purges after ``moment``, oldest first, at most :data:`MAX_PURGES`."""
        sql = "SELECT moment, selection FROM cache_purges WHERE moment > ? ORDER BY moment LIMIT ?"
        params = (moment, MAX_PURGES)
        rows = self._database.run(lambda session: session.all(sql, params), readonly=True)
        return [LoggedPurge(int(row[0]), Purge(**orjson.loads(row[1]))) for row in rows]

    def prune(self, before: datetime, max_rows: int) -> int:
        """Deletes the oldest purges that are older than ``before``, at most ``max_rows`` of them.

        Returns how many.
        """
        sql = self._database.dialect.deleting("cache_purges", ("moment",), "moment <= ?")
        params = (to_micros(before), max_rows)
        return self._database.run(lambda session: session.execute(sql, params))
