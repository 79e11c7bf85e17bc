"""Parts that are made of several settings. Beside :mod:`proxy.app`, for it alone."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import requests

from proxy.auth.recorder import Recorder
from proxy.auth.refusals import Refusals
from proxy.events.audit import audit_line
from proxy.events.journal import SpoolSettings
from proxy.events.queue import EventQueue
from proxy.housekeeping import Chore, Housekeeper
from proxy.relay.adapter import UpstreamAdapter
from proxy.relay.transport import SessionTransport
from proxy.settings import Settings
from proxy.store.audit import AuditEntry, AuditLog
from proxy.store.chores import Chores
from proxy.store.database import Database
from proxy.store.expiry import ExpiredTokens
from proxy.store.usage import UsageLedger


def spool_settings(settings: Settings, readers: frozenset[str]) -> SpoolSettings:
    """``readers``: the sinks for which the spool keeps what they have not got yet."""
    # A slot for each request that runs and each event that waits; more waiting ones than these mean
    # that the disk hangs.
    waiting = min(settings.event_queue_size, 4096)
    return SpoolSettings(
        root=settings.data_dir.absolute() / "spool",
        sinks=readers,
        max_bytes=settings.spool_max_bytes,
        fsync_interval=settings.spool_fsync_interval,
        slots=settings.max_concurrent_requests + waiting,
    )


def upstream_adapter(settings: Settings) -> UpstreamAdapter:
    return UpstreamAdapter(
        pool_size=settings.upstream_pool_size,
        connect_timeout=settings.upstream_connect_timeout,
        proxy_url=settings.upstream_proxy_url,
    )


def session_transport(settings: Settings, adapter: UpstreamAdapter) -> SessionTransport:
    session = requests.Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return SessionTransport(
        session,
        connect_timeout=settings.upstream_connect_timeout,
        read_timeout=settings.upstream_read_timeout,
    )


def open_database(settings: Settings) -> Database:
    """Made without I/O."""
    return Database.from_url(settings.database_url, pool_size=settings.database_pool_size)


def audit_recorder(database: Database, queue: EventQueue) -> Recorder:
    """Tells the event sinks of every entry that was committed."""

    def tell(entry: AuditEntry) -> None:
        queue.publish_line(audit_line(entry))

    return Recorder(AuditLog(database), Refusals(), tell)


def housekeeper(settings: Settings, database: Database) -> Housekeeper:
    """What is kept for ever has no chore."""
    chores: dict[str, Chore] = {"tokens": ExpiredTokens(database).deactivate}
    if settings.usage_retention_days:
        chores["usage"] = _pruning(UsageLedger(database).prune, settings.usage_retention_days)
    if settings.audit_retention_days:
        chores["audit"] = _pruning(AuditLog(database).prune, settings.audit_retention_days)
    return Housekeeper(Chores(database), chores)


def _pruning(prune: Callable[[datetime, int], int], days: int) -> Chore:
    """``prune(before, most)`` of what is older than ``days``."""
    return lambda most: prune(datetime.now(UTC) - timedelta(days=days), most)
