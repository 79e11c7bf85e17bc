"""What one worker knows of projects and tokens: the database, and everything that follows it.

Note: in pass-through mode the parts are made and never started, and there may be no database. So
nothing connects or spawns before `AccountServices.start`.
"""

import math
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from proxy.audit.denials import DenialAggregator
from proxy.audit.writer import AuditWriter
from proxy.auth.authenticator import Authenticator
from proxy.auth.change_poller import ChangePoller
from proxy.auth.revalidation import Revalidator
from proxy.auth.shortfalls import Shortfalls
from proxy.crypto.cipher import Cipher
from proxy.events.audit_event import audit_line
from proxy.events.queue import EventQueue
from proxy.gateway.inflight import InFlightRequests, QuotaExhausted
from proxy.maintenance.scheduler import MaintenanceScheduler, Task
from proxy.quota.budgets import Budgets
from proxy.quota.holds import NodeHolds
from proxy.quota.permits import PermitLeases
from proxy.quota.usage_counter import UsageCounter
from proxy.settings.settings import Settings
from proxy.store.audit import AuditEntry, AuditLog
from proxy.store.cache_purges import CachePurges
from proxy.store.changes import Changes
from proxy.store.counted_ids import CountedIds
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.grants import Grants
from proxy.store.health import DatabaseHealth
from proxy.store.key_health import KeyHealth
from proxy.store.leases import TaskLeases
from proxy.store.migrate import check_schema
from proxy.store.projects import Projects
from proxy.store.rotation import unreadable
from proxy.store.routing_tables import RoutingTables
from proxy.store.rows import from_micros
from proxy.store.tokens import ExpiredTokens, Tokens
from proxy.store.usage import UsageLedger
from proxy.wiring.known import known_grants

if TYPE_CHECKING:
    from proxy.auth.change_bus import ChangeBus

#: Batches of `counted_ids` are larger than those of other tables by this factor. A row is small and
#: there is one per request, so on a busy day rows would come faster than they are pruned.
_COUNTED_BATCHES: Final = 10
#: After so many days without a report, the health of a key for a model is forgotten.
_KEY_HEALTH_DAYS: Final = 30
#: Days for which a purge is kept beyond the life of a stored response.
_PURGES_DAYS: Final = 7


def maintenance_scheduler(settings: Settings, database: Database) -> MaintenanceScheduler:
    """The maintenance tasks that the settings ask for.

    A retention of 0 days means to keep rows forever, so it has no task.
    """
    retention = settings.retention
    counted_ids = CountedIds(database, retention.counted_ids_days)

    def prune_counted_ids(before: datetime, max_rows: int) -> int:
        return counted_ids.prune(before, max_rows * _COUNTED_BATCHES)

    tasks: dict[str, Task] = {
        "tokens": ExpiredTokens(database).deactivate,
        # Each of these rows has its own expiry.
        "counted_ids": _pruning(database, prune_counted_ids, 0),
        "key_health": _pruning(database, KeyHealth(database).prune, _KEY_HEALTH_DAYS),
        "cache_purges": _pruning(
            database,
            CachePurges(database).prune,
            _PURGES_DAYS + math.ceil(response_lifetime(settings) / 86_400),
        ),
    }
    if days := retention.usage_days:
        tasks["usage"] = _pruning(database, UsageLedger(database).prune, days)
    if days := retention.audit_days:
        tasks["audit"] = _pruning(database, AuditLog(database).prune, days)
    return MaintenanceScheduler(TaskLeases(database), tasks)


def response_lifetime(settings: Settings) -> float:
    """The seconds after which a stored response cannot be hit any more."""
    return settings.cache.ttl + settings.cache.stale_if_error


def _pruning(database: Database, prune: Callable[[datetime, int], int], days: int) -> Task:
    """A task that calls `prune(before, max_rows)` for rows older than `days`.

    Their age is measured by the database's clock, which all nodes share: a node whose own clock is
    years ahead would delete everything.
    """

    def run(max_rows: int) -> int:
        return prune(from_micros(Changes(database).now()) - timedelta(days=days), max_rows)

    return run


class NoChangeBus:
    """Without Redis, other workers learn of a change only from the database."""

    def start(self) -> None: ...

    def publish(self, ids: Collection[str]) -> None: ...

    def close(self) -> None: ...


def change_bus(settings: Settings, change_poller: ChangePoller) -> "ChangeBus | NoChangeBus":
    if not settings.redis_url:
        return NoChangeBus()
    from proxy.auth.change_bus import ChangeBus

    return ChangeBus(settings.redis_url, change_poller)


class AccountServices:
    def __init__(self, settings: Settings, in_flight: InFlightRequests, queue: EventQueue) -> None:
        """A change may end requests of `in_flight`; audit entries also go to `queue`."""
        auth, keys = settings.auth, settings.encryption
        self.database = database = Database.from_url(
            settings.database.url, pool_size=settings.database.pool_size
        )
        self.cipher = cipher = Cipher(keys.key, keys.previous_keys)
        self.projects = Projects(database, cipher)
        self.tokens = Tokens(database)
        self.health = DatabaseHealth(
            lambda: check_schema(database),
            lambda: unreadable(database, cipher),
            database.check_writes,
        )
        self.recorder = _recorder(database, queue)
        self.counted_ids = CountedIds(database, settings.retention.counted_ids_days)
        counters = Counters(database)
        self.counts = UsageCounter(counters)
        self.shortfalls = Shortfalls(counters)
        self.leases = PermitLeases(counters, self.counts)
        self._holds = NodeHolds(settings.data_dir.absolute() / "limits" / "holds")
        #: Providers, keys and mappings, and who is called with the ids of what has changed.
        self.routing_tables = RoutingTables(database, cipher)
        self.key_health = KeyHealth(database)
        self.listeners: list[Callable[[Collection[str] | None], None]] = []
        self._budgets = Budgets(
            counters,
            self._holds,
            self.counts.unwritten,
            lambda token_id: in_flight.cancel_account(token_id, QuotaExhausted),
        )
        self._known = known_grants(settings)
        self.authenticator = Authenticator(
            Grants(database, cipher),
            self.leases,
            self.counts,
            self._budgets,
            cache_size=auth.cache_size,
            cache_ttl=auth.cache_ttl,
            stale_grace=auth.stale_grace,
            known=self._known if auth.stale_grace else None,
        )
        self.change_poller = ChangePoller(
            Changes(database),
            self._forget,
            interval=auth.revocation_interval,
            known=self._known,
            failed=self.health.hurry,
        )
        self._change_bus = change_bus(settings, self.change_poller)
        self._revalidator = Revalidator(in_flight, self.authenticator.revalidate)
        self.maintenance = maintenance_scheduler(settings, database)

    @property
    def known_tokens_only(self) -> bool:
        """Whether the database is unreachable and there are tokens that may be used without it."""
        return self.health.away and self._known.usable

    def start(self) -> None:
        self._known.start()
        self.recorder.start()
        self.counts.start(self._budgets.refresh)
        self.leases.start()
        self._revalidator.start()
        self.change_poller.start()
        self._change_bus.start()
        self.health.start()
        self.maintenance.start()

    def announce(self, identifier: str) -> None:
        """Announce a committed change of a project or token by the management API."""
        self.change_poller.announced([identifier])
        self._change_bus.publish([identifier])

    def flush(self, deadline: float) -> None:
        """Stop watching, and write what is not written yet, for at most `deadline` seconds.

        Takes milliseconds, unless the database hangs.
        """
        self._change_bus.close()
        self.change_poller.close()
        self._revalidator.close()
        self.health.close()
        self.maintenance.close(deadline / 8)
        self.shortfalls.close()
        self.leases.close(deadline / 3)
        self.counts.close(deadline / 3)
        self.recorder.close(deadline / 8)
        self._known.close(deadline / 8)

    def close(self) -> None:
        """Called after `flush`, when the database is not needed any more."""
        self.database.close()
        self._holds.close()

    def _forget(self, ids: Collection[str] | None) -> None:
        self.authenticator.forget(ids)
        self._revalidator.changed(ids)
        # Their limits may have changed, and the limits in the store decide.
        self.leases.return_permits(ids)
        for listener in self.listeners:
            listener(ids)


def _recorder(database: Database, queue: EventQueue) -> AuditWriter:
    """An audit writer that publishes every committed entry to the event sinks."""

    def publish(entry: AuditEntry) -> None:
        queue.publish_line(audit_line(entry))

    return AuditWriter(AuditLog(database), DenialAggregator(), publish)
