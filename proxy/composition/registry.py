"""What one worker knows of projects and tokens: the database, and all that keeps up with it.

The thing to get wrong: in pass-through mode it is made and never started, and there may be no
database; so nothing connects or spawns before :meth:`Registry.start`.
"""

from collections.abc import Collection

from proxy.auth.authenticator import Authenticator
from proxy.auth.budgets import Budgets
from proxy.auth.counts import RequestCounts
from proxy.auth.leases import PermitLeases
from proxy.auth.recorder import Recorder
from proxy.auth.refusals import Refusals
from proxy.auth.review import Review
from proxy.auth.revocation import Revocation
from proxy.auth.shortfalls import Shortfalls
from proxy.cipher import Cipher
from proxy.composition.channel import change_channel
from proxy.composition.chores import housekeeper
from proxy.composition.known import known_grants
from proxy.events.audit import audit_line
from proxy.events.queue import EventQueue
from proxy.limits.holds import NodeHolds
from proxy.relay.watch import LiveRequests, QuotaSpent
from proxy.settings import Settings
from proxy.store.audit import AuditEntry, AuditLog
from proxy.store.changes import Changes
from proxy.store.counted import CountedIds
from proxy.store.counters import Counters
from proxy.store.database import Database
from proxy.store.grants import Grants
from proxy.store.health import DatabaseHealth
from proxy.store.migrate import check_schema
from proxy.store.projects import Projects
from proxy.store.rotation import unreadable
from proxy.store.tokens import Tokens


class Registry:
    def __init__(self, settings: Settings, live: LiveRequests, queue: EventQueue) -> None:
        """``live`` are the requests that a change may end; audit entries go to ``queue``, too."""
        url, pool_size = settings.database_url, settings.database_pool_size
        self.database = database = Database.from_url(url, pool_size=pool_size)
        cipher = Cipher(settings.encryption_key, settings.encryption_keys_previous)
        self.projects = Projects(database, cipher)
        self.tokens = Tokens(database)
        self.health = DatabaseHealth(
            lambda: check_schema(database),
            lambda: unreadable(database, cipher),
            database.check_writes,
        )
        self.recorder = _recorder(database, queue)
        self.counted_ids = CountedIds(database, settings.counted_ids_days)
        counters = Counters(database)
        self.counts = RequestCounts(counters)
        self.shortfalls = Shortfalls(counters)
        self.leases = PermitLeases(counters, self.counts)
        self._holds = NodeHolds(settings.data_dir.absolute() / "limits" / "holds")
        self._budgets = Budgets(
            counters,
            self._holds,
            self.counts.unwritten,
            lambda token_id: live.cut_account(token_id, QuotaSpent),
        )
        self._known = known_grants(settings)
        self.authenticator = Authenticator(
            Grants(database, cipher),
            self.leases,
            self.counts,
            self._budgets,
            cache_size=settings.auth_cache_size,
            cache_ttl=settings.auth_cache_ttl,
            stale_grace=settings.auth_stale_grace,
            known=self._known if settings.auth_stale_grace else None,
        )
        self.revocation = Revocation(
            Changes(database),
            self._forget,
            interval=settings.revocation_interval,
            known=self._known,
            failed=self.health.hurry,
        )
        self._channel = change_channel(settings, self.revocation)
        self._review = Review(live, self.authenticator.look_again)
        self.housekeeper = housekeeper(settings, database)

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


def _recorder(database: Database, queue: EventQueue) -> Recorder:
    """Tells the event sinks of every entry that was committed."""

    def tell(entry: AuditEntry) -> None:
        queue.publish_line(audit_line(entry))

    return Recorder(AuditLog(database), Refusals(), tell)
