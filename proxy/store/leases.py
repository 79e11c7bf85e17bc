"""Who does what only one shall do, over all workers of all nodes: a lease in the database.

The thing to get wrong: a holder that was stopped for longer than its lease does not know that
another has it now. So chores are such that two at once do no harm, and whoever holds a lease does
not go on for longer than it lasts.
"""

from typing import Final

from proxy.store.database import Conflict, Database, Session
from proxy.store.dialects import Deadlock

#: Seconds. One that has longer to go is nobody's.
LONGEST: Final = 3600


class TaskLeases:
    """Leases by name. ``holder``: at most 64 ASCII characters that nobody else calls themselves.

    All methods: StoreError when the database does not answer. Times are those of its clock.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Whether ``holder`` has it from now on for ``seconds`` (far fewer than :data:`LONGEST`):
        it was free, or theirs already."""

        def work(session: Session) -> bool:
            # If another one is waited for, this is too early: a lease is never taken too soon.
            now = session.now()
            until = now + int(seconds * 1e6)
            if session.one("SELECT 1 FROM chores WHERE name = ?", (name,)) is None:
                insert = "INSERT INTO chores (name, holder, held_until) VALUES (?, ?, ?)"
                return session.execute(insert, (name, holder, until)) == 1
            # One that ends later than any can is from before the clock went back.
            update = (
                "UPDATE chores SET holder = ?, held_until = ? "
                "WHERE name = ? AND (holder = ? OR held_until <= ? OR held_until > ?)"
            )
            latest = now + LONGEST * 1_000_000
            params = (holder, until, name, holder, now, latest)
            return session.execute(update, params) == 1

        try:
            return self._database.run(work)
        except (Conflict, Deadlock):
            return False  # two came at once, and this is the other one

    def release(self, name: str, holder: str) -> None:
        """Free for everybody, if it is ``holder``'s."""
        sql = "UPDATE chores SET held_until = 0 WHERE name = ? AND holder = ?"
        self._database.run(lambda session: session.execute(sql, (name, holder)))
