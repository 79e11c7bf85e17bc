"""What one worker knows of projects and tokens: the database, and all that keeps up with it.

The thing to get wrong: in pass-through mode it is made and never started, and there may be no
database; so nothing connects or spawns before :meth:`AccountServices.start`.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from proxy.audit.denials import DenialAggregator
from proxy.audit.writer import AuditWriter
from proxy.auth.authenticator import Authenticator
from proxy.auth.change_poller import ChangePoller
from proxy.auth.revalidation import Revalidator
from proxy.auth.shortfalls import Shortfalls
from proxy.composition.known import known_grants
from proxy.crypto.cipher import Cipher
from proxy.events.audit_event import audit_line
from proxy.events.queue import EventQueue
from proxy.gateway.inflight import InFlightRequests, QuotaExhausted
from proxy.quota.budgets import Budgets
from proxy.quota.holds import NodeHolds
from proxy.quota.permits import PermitLeases
from proxy.quota.usage_counter import UsageCounter
from proxy.settings.settings import Settings
from proxy.store.audit import AuditEntry, AuditLog
from proxy.store.changes import Changes
from proxy.store.counted_ids import CountedIds
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.grants import Grants
from proxy.store.health import DatabaseHealth
from proxy.store.migrate import check_schema
from proxy.store.projects import Projects
from proxy.store.rotation import unreadable
from proxy.store.tokens import Tokens

if TYPE_CHECKING:
    from proxy.auth.change_bus import ChangeBus
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from proxy.maintenance.scheduler import MaintenanceScheduler, Task
from proxy.store.leases import TaskLeases
from proxy.store.rows import from_micros
from proxy.store.tokens import ExpiredTokens
from proxy.store.usage import UsageLedger

#: A row of `counted_ids` is small and there is one for each request: so many times a batch of other
#: rows, or a busy day's would come faster than they go.
_COUNTED_BATCHES: Final = 10


def maintenance_scheduler(settings: Settings, database: Database) -> MaintenanceScheduler:
    counted_ids = CountedIds(database, settings.retention.counted_ids_days)

    def counted(before: datetime, most: int) -> int:
        return counted_ids.prune(before, most * _COUNTED_BATCHES)

    chores: dict[str, Task] = {
        "tokens": ExpiredTokens(database).deactivate,
        # The rows say themselves when their time is over.
        "counted_ids": _pruning(database, counted, 0),
    }
    if settings.retention.usage_days:
        days = settings.retention.usage_days
        chores["usage"] = _pruning(database, UsageLedger(database).prune, days)
    if settings.retention.audit_days:
        days = settings.retention.audit_days
        chores["audit"] = _pruning(database, AuditLog(database).prune, days)
    return MaintenanceScheduler(TaskLeases(database), chores)


def _pruning(database: Database, prune: Callable[[datetime, int], int], days: int) -> Task:
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


def change_bus(settings: Settings, revocation: ChangePoller) -> "ChangeBus | NoChannel":
    if not settings.redis_url:
        return NoChannel()
    from proxy.auth.change_bus import ChangeBus

    return ChangeBus(settings.redis_url, revocation)


class AccountServices:
    def __init__(self, settings: Settings, live: InFlightRequests, queue: EventQueue) -> None:
        """``live`` are the requests that a change may end; audit entries go to ``queue``, too."""
        url, pool_size = settings.database.url, settings.database.pool_size
        self.database = database = Database.from_url(url, pool_size=pool_size)
        cipher = Cipher(settings.encryption.key, settings.encryption.previous_keys)
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
        self._budgets = Budgets(
            counters,
            self._holds,
            self.counts.unwritten,
            lambda token_id: live.cancel_account(token_id, QuotaExhausted),
        )
        self._known = known_grants(settings)
        self.authenticator = Authenticator(
            Grants(database, cipher),
            self.leases,
            self.counts,
            self._budgets,
            cache_size=settings.auth.cache_size,
            cache_ttl=settings.auth.cache_ttl,
            stale_grace=settings.auth.stale_grace,
            known=self._known if settings.auth.stale_grace else None,
        )
        self.revocation = ChangePoller(
            Changes(database),
            self._forget,
            interval=settings.auth.revocation_interval,
            known=self._known,
            failed=self.health.hurry,
        )
        self._channel = change_bus(settings, self.revocation)
        self._review = Revalidator(live, self.authenticator.revalidate)
        self.housekeeper = maintenance_scheduler(settings, database)

    @property
    def known_tokens_only(self) -> bool:
        """Whether the database is away and there are tokens that may be used without it."""
        return self.health.away and self._known.usable

    def start(self) -> None:
        self._known.start()
        self.recorder.start()
        self.counts.start(self._budgets.refresh)
        self.leases.start()
        self._review.start()
        self.revocation.start()
        self._channel.start()
        self.health.start()
        self.housekeeper.start()

    def announce(self, identifier: str) -> None:
        """A project or token was changed through the management API, and that is committed."""
        self.revocation.announced([identifier])
        self._channel.publish([identifier])

    def flush(self, deadline: float) -> None:
        """Stop watching, and write what is not written yet, for ``deadline`` seconds at the most:
        milliseconds, unless the database hangs."""
        self._channel.close()
        self.revocation.close()
        self._review.close()
        self.health.close()
        self.housekeeper.close(deadline / 8)
        self.shortfalls.close()
        self.leases.close(deadline / 3)
        self.counts.close(deadline / 3)
        self.recorder.close(deadline / 8)
        self._known.close(deadline / 8)

    def close(self) -> None:
        """After :meth:`flush`, when nobody needs the database any more."""
        self.database.close()
        self._holds.close()

    def _forget(self, ids: Collection[str] | None) -> None:
        self.authenticator.forget(ids)
        self._review.changed(ids)
        # Their limits may have changed; the store's own must be what counts.
        self.leases.give_back(ids)


def _recorder(database: Database, queue: EventQueue) -> AuditWriter:
    """Tells the event sinks of every entry that was committed."""

    def tell(entry: AuditEntry) -> None:
        queue.publish_line(audit_line(entry))

    return AuditWriter(AuditLog(database), DenialAggregator(), tell)
