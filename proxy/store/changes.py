"""Changes of tokens, projects and revisions since a given time: so workers learn of revocations.

Note: a change gets its time when its statement runs and becomes visible when its transaction
commits, so a later query may still find an earlier time. The caller must reach back by more than a
transaction can last, and recognise the changes that it has seen before.
"""

from dataclasses import dataclass
from typing import Final

from proxy.store.database import Database, Session

#: Changes in one result. If there are more, the caller had better forget everything.
MAX_CHANGES: Final = 5000

_QUERY: Final = (
    "SELECT id, updated_at FROM tokens WHERE updated_at > ? "
    "UNION ALL SELECT id, updated_at FROM projects WHERE updated_at > ? "
    "UNION ALL SELECT name, updated_at FROM revisions WHERE updated_at > ? "
    "ORDER BY updated_at LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Change:
    """A token, a project or a revision, and when it changed.

    The ids of the first two are UUIDs, so none is both; that of a revision is its name.
    """

    id: str
    updated_at: int


@dataclass(frozen=True, slots=True)
class ChangeList:
    """Changes, oldest first, and the database's own time of the query, in microseconds."""

    now: int
    changes: list[Change]
    #: Whether there were more than :data:`MAX_CHANGES`; ``changes`` then lacks the newest.
    truncated: bool


class Changes:
    """The query for changes: indexed look-ups in one statement."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> int:
        """Reads the clock by which changes get their time. Raises StoreError."""
        return self._database.run(lambda session: session.now(), readonly=True)

    def since(self, moment: int) -> ChangeList:
        """Returns the changes with a time after ``moment`` (microseconds). Raises StoreError."""

        def work(session: Session) -> ChangeList:
            rows = session.all(_QUERY, (moment, moment, moment, MAX_CHANGES + 1))
            changes = [Change(str(row[0]), int(row[1])) for row in rows[:MAX_CHANGES]]
            return ChangeList(session.now(), changes, truncated=len(rows) > MAX_CHANGES)

        return self._database.run(work, readonly=True)
