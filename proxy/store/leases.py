"""Leases in the database, for tasks that only one worker of all nodes runs at a time.

Note: a holder that was stopped for longer than its lease does not know that another worker holds
it now. So tasks must be harmless when two run at once, and a holder must not continue for longer
than its lease lasts.
"""

from typing import Final

from proxy.store.database import Conflict, Database, Session
from proxy.store.dialects import Deadlock

#: A lease with longer to go is invalid, and free.
MAX_LEASE_SECONDS: Final = 3600


class TaskLeases:
    """Leases by name. ``holder`` is a unique name of at most 64 ASCII characters.

    All methods raise StoreError when the database does not respond. Times are by its clock.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, name: str, holder: str, seconds: float) -> bool:
        """Takes the lease for ``seconds`` (far fewer than :data:`MAX_LEASE_SECONDS`) if it is free,
        or extends it if ``holder`` has it. Returns whether ``holder`` has it now."""

        def work(session: Session) -> bool:
            # If the statement waits for another transaction, this time is too early, which only
            # delays: a lease is never taken too soon.
            now = session.now()
            until = now + int(seconds * 1e6)
            if session.one("SELECT 1 FROM leases WHERE name = ?", (name,)) is None:
                insert = "INSERT INTO leases (name, holder, held_until) VALUES (?, ?, ?)"
                return session.execute(insert, (name, holder, until)) == 1
            # A lease that ends later than possible is from before the clock was put back.
            update = (
                "UPDATE leases SET holder = ?, held_until = ? "
                "WHERE name = ? AND (holder = ? OR held_until <= ? OR held_until > ?)"
            )
            latest = now + MAX_LEASE_SECONDS * 1_000_000
            params = (holder, until, name, holder, now, latest)
            return session.execute(update, params) == 1

        try:
            return self._database.run(work)
        except (Conflict, Deadlock):
            return False  # two workers tried at once, and the other one has it

    def release(self, name: str, holder: str) -> None:
        """Frees the lease if ``holder`` has it."""
        sql = "UPDATE leases SET held_until = 0 WHERE name = ? AND holder = ?"
        self._database.run(lambda session: session.execute(sql, (name, holder)))
