"""What is to be done now and then in this installation. What is kept for ever has no chore."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from proxy.housekeeping import Chore, Housekeeper
from proxy.settings import Settings
from proxy.store.audit import AuditLog
from proxy.store.changes import Changes
from proxy.store.chores import Chores
from proxy.store.counted import CountedIds
from proxy.store.database import Database
from proxy.store.expiry import ExpiredTokens
from proxy.store.rows import from_micros
from proxy.store.usage import UsageLedger

#: A row of `counted_ids` is small and there is one for each request: so many times a batch of other
#: rows, or a busy day's would come faster than they go.
_COUNTED_BATCHES: Final = 10


def housekeeper(settings: Settings, database: Database) -> Housekeeper:
    counted_ids = CountedIds(database, settings.counted_ids_days)

    def counted(before: datetime, most: int) -> int:
        return counted_ids.prune(before, most * _COUNTED_BATCHES)

    chores: dict[str, Chore] = {
        "tokens": ExpiredTokens(database).deactivate,
        # The rows say themselves when their time is over.
        "counted_ids": _pruning(database, counted, 0),
    }
    if settings.usage_retention_days:
        days = settings.usage_retention_days
        chores["usage"] = _pruning(database, UsageLedger(database).prune, days)
    if settings.audit_retention_days:
        days = settings.audit_retention_days
        chores["audit"] = _pruning(database, AuditLog(database).prune, days)
    return Housekeeper(Chores(database), chores)


def _pruning(database: Database, prune: Callable[[datetime, int], int], days: int) -> Chore:
    """``prune(before, most)`` of what is older than ``days``, by the clock that all nodes share: a
    node whose own is years ahead would delete everything."""

    def work(most: int) -> int:
        return prune(from_micros(Changes(database).now()) - timedelta(days=days), most)

    return work
