"""What has changed since? The question by which every worker learns of revocations.

The thing to get wrong: a change gets its time when its statement runs and is seen when its
transaction commits, so a later question may still find an earlier time. Whoever asks must reach
back by more than a transaction can last, and recognise what it has seen before.
"""

from dataclasses import dataclass
from typing import Final

from proxy.store.database import Database, Session

#: More changes than this in one answer: whoever asks had better forget everything.
MOST: Final = 5000

_QUERY: Final = (
    "SELECT id, updated_at FROM tokens WHERE updated_at > ? "
    "UNION ALL SELECT id, updated_at FROM projects WHERE updated_at > ? "
    "ORDER BY updated_at LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Change:
    """A token or a project (their ids are UUIDs, and never the same), and when it changed."""

    id: str
    updated_at: int


@dataclass(frozen=True, slots=True)
class ChangeList:
    """Changes, oldest first, and the database's own time when it was asked: microseconds."""

    now: int
    changes: list[Change]
    #: Whether there were more than :data:`MOST`; ``changes`` then lacks the newest.
    truncated: bool


class Changes:
    """Two indexed look-ups in one query."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def now(self) -> int:
        """The clock by which changes get their time. StoreError."""
        return self._database.run(lambda session: session.now(), readonly=True)

    def since(self, moment: int) -> ChangeList:
        """What has a time after ``moment`` (microseconds). StoreError."""

        def work(session: Session) -> ChangeList:
            rows = session.all(_QUERY, (moment, moment, MOST + 1))
            changes = [Change(str(row[0]), int(row[1])) for row in rows[:MOST]]
            return ChangeList(session.now(), changes, truncated=len(rows) > MOST)

        return self._database.run(work, readonly=True)
