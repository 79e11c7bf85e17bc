"""Parts that are made of several settings. Beside :mod:`proxy.app`, for it alone."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import requests

from proxy.auth.recorder import Recorder
from proxy.auth.refusals import Refusals
from proxy.auth.revocation import Revocation
from proxy.events.audit import audit_line
from proxy.events.drain import Drain
from proxy.events.event import UsageEvent
from proxy.events.folders import LOCAL
from proxy.events.journal import Journal, SpoolSettings
from proxy.events.queue import EventQueue
from proxy.events.sinks import from_event_log, shipped
from proxy.housekeeping import Chore, Housekeeper
from proxy.relay.adapter import UpstreamAdapter
from proxy.relay.transport import SessionTransport
from proxy.settings import Settings
from proxy.store.audit import AuditEntry, AuditLog
from proxy.store.changes import Changes
from proxy.store.chores import Chores
from proxy.store.database import Database
from proxy.store.expiry import ExpiredTokens
from proxy.store.rows import from_micros
from proxy.store.usage import UsageLedger
from proxy.web.bounds import Bounds

if TYPE_CHECKING:
    from proxy.auth.redis import ChangeChannel


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


def event_drain(
    settings: Settings, queue: EventQueue, observe: Callable[[Sequence[UsageEvent]], None]
) -> Drain:
    """To the sinks of the worker itself, and to the spool for all others. Opens files."""
    sinks = from_event_log(
        settings.event_log,
        max_bytes=settings.event_log_max_bytes,
        backups=settings.event_log_backups,
    )
    # Each is the name of a sink for which the spool keeps what it has not got yet.
    readers = frozenset(shipped(settings)) | ({LOCAL} if sinks else set())
    return Drain(
        queue,
        sinks,
        backlog=settings.event_queue_size,
        observe=observe,
        journal=Journal(spool_settings(settings, readers)),
    )


def upstream_adapter(settings: Settings) -> UpstreamAdapter:
    return UpstreamAdapter(
        pool_size=settings.upstream_pool_size,
        connect_timeout=settings.upstream_connect_timeout,
        proxy_url=settings.upstream_proxy_url,
    )


def bounds(settings: Settings) -> Bounds:
    return Bounds(
        concurrent=settings.max_concurrent_requests,
        request_bytes=settings.max_request_bytes,
        json_bytes=settings.max_json_bytes,
        trusted_proxies=settings.trusted_proxies,
        sse_keepalive=settings.sse_keepalive,
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


class NoChannel:
    """Without Redis nobody else can be told at once."""

    def start(self) -> None: ...

    def publish(self, ids: Collection[str]) -> None: ...

    def close(self) -> None: ...


def change_channel(settings: Settings, revocation: Revocation) -> "ChangeChannel | NoChannel":
    """By which workers tell each other what they changed."""
    if not settings.redis_url:
        return NoChannel()
    # The library is 10 MB that nobody else needs.
    from proxy.auth.redis import ChangeChannel

    return ChangeChannel(settings.redis_url, revocation)
