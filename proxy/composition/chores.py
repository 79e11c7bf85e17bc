"""What is to be done now and then in this installation. What is kept for ever has no chore."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from proxy.housekeeping import Chore, Housekeeper
from proxy.settings import Settings
from proxy.store.audit import AuditLog
from proxy.store.chores import Chores
from proxy.store.database import Database
from proxy.store.expiry import ExpiredTokens
from proxy.store.usage import UsageLedger


def housekeeper(settings: Settings, database: Database) -> Housekeeper:
    chores: dict[str, Chore] = {"tokens": ExpiredTokens(database).deactivate}
    if settings.usage_retention_days:
        chores["usage"] = _pruning(UsageLedger(database).prune, settings.usage_retention_days)
    if settings.audit_retention_days:
        chores["audit"] = _pruning(AuditLog(database).prune, settings.audit_retention_days)
    return Housekeeper(Chores(database), chores)


def _pruning(prune: Callable[[datetime, int], int], days: int) -> Chore:
    """``prune(before, most)`` of what is older than ``days``."""
    return lambda most: prune(datetime.now(UTC) - timedelta(days=days), most)
