"""Every worker polls the database once a second for changes, and forgets what they concern.

So a revocation, a deactivation, a new limit or a new upstream key made on any node takes effect
within about two seconds, whatever the time-to-live of the cache. An announced change (made by this
worker, or received through Redis) takes effect at once. The worker polls all the same, since an
announcement may get lost. While the database is away, announcements are the only source; the first
poll after that finds the changes that were missed.
"""

import logging
import random
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from proxy.auth.known import KnownGrants
from proxy.core.errors import StoreError
from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.store.changes import Change, ChangeList

_log = logging.getLogger(__name__)

#: How far each poll reaches back, in microseconds: longer than a transaction can last.
_OVERLAP_MICROSECONDS: Final = 15_000_000
#: Seconds between two polls while the database is away, at most.
_MAX_PAUSE: Final = 5.0
#: Seconds between two polls at least, however much is announced.
_MIN_INTERVAL: Final = 0.05
#: Announced changes that are remembered until a poll finds them.
_MAX_APPLIED: Final = 10_000


class ChangeSource(Protocol):
    """The changes that the store records. Both methods raise StoreError."""

    def now(self) -> int: ...

    def since(self, moment: int) -> ChangeList: ...


class ChangePoller:
    """Calls `forget(ids)` with the tokens and projects that changed. One per worker."""

    def __init__(
        self,
        source: ChangeSource,
        forget: Callable[[Collection[str] | None], None],
        *,
        interval: float,
        known: KnownGrants | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the poller.

        Args:
            source: Returns the changes.
            forget: Called with the ids of changed tokens and projects, or with None: all of them.
            interval: Seconds between two polls, jittered by a tenth.
            known: The grants that outlive a restart. They get every change, and return the time up
                to which they have all.
            failed: Called when the database stops to respond. Must not wait.
        """
        self._source = source
        self._forget = forget
        self._interval = interval
        self._kept = known
        self._failed = failed
        # The database's time up to which every change has been seen; None before the first poll.
        self._seen_until: int | None = None
        # Changes within the overlap that have taken effect: id → the change's time.
        self._known: dict[str, int] = {}
        # Announced changes that have taken effect and that no poll has found: id → monotonic time.
        self._applied: dict[str, float] = {}
        longest = max(_MAX_PAUSE, interval)
        self._backoff = Backoff(min(2 * interval, longest), longest)
        self._task = PeriodicTask(
            self._run,
            self._pause,
            failure="change poller: a poll failed",
            log=_log,
            first_pause=lambda: 0.0,
            min_pause=_MIN_INTERVAL,
        )
        self._failures = FailureLog(
            _log.log,
            "change poller",
            "revocations of other nodes are not seen",
            "revocations of other nodes are seen again",
        )
        #: Seconds from the newest change to its effect here, by the last poll that found a change;
        #: None before the first.
        self.lag: float | None = None
        #: Monotonic time of the last poll that succeeded.
        self.polled_at: float | None = None
        #: Whether announcements of other workers arrive; None: there is no Redis.
        self.listening: bool | None = None

    def start(self) -> None:
        self._task.start()

    def close(self) -> None:
        self._task.kill()

    def announced(self, ids: Collection[str]) -> None:
        """Forget these tokens and projects, which changed just now, before a poll finds them."""
        if self._kept is not None:
            self._kept.forget(ids)
        self._forget(ids)
        if len(self._applied) < _MAX_APPLIED:
            self._applied.update(dict.fromkeys(ids, time.monotonic()))

    def on_message(self, ids: Collection[str]) -> None:
        """Take an announcement of another worker, and poll soon.

        The announcement may be wrong; the poll returns the true changes.
        """
        self.announced(ids)
        self._task.wake()

    def set_subscribed(self, listening: bool) -> None:
        """Record whether announcements of other workers arrive, and poll soon."""
        self.listening = listening
        # The poll finds the changes that were announced in between.
        self._task.wake()

    def poll(self) -> None:
        """Poll once. Raises StoreError; the next poll then covers the same time."""
        resumed = False
        if self._seen_until is None:
            moment = None if self._kept is None else self._kept.seen_until()
            resumed = moment is not None
            if moment is None:
                # The worker has nothing yet that could be older than this moment.
                self._seen_until = self._source.now()
                self._record_seen(self._seen_until, [])
                return
            self._seen_until = moment
        found = self._source.since(self._seen_until - _OVERLAP_MICROSECONDS)
        fresh: list[Change] | None = None
        if found.truncated:
            self._forget(None)
            self._known.clear()
        else:
            fresh = [c for c in found.changes if self._known.get(c.id) != c.updated_at]
            if fresh:
                self._forget({change.id for change in fresh})
                if not resumed:  # a change from before the start did not take effect late
                    self._measure_lag(fresh, found.now)
            self._known = {change.id: change.updated_at for change in found.changes}
        self._seen_until = found.now
        self._record_seen(found.now, fresh)

    def _record_seen(self, moment: int, changes: list[Change] | None) -> None:
        if self._kept is not None:
            self._kept.seen(moment, changes)

    def _measure_lag(self, fresh: list[Change], now: int) -> None:
        """Measure how late the newest change took effect; `now`: the database's time."""
        applied = {change.id: self._applied.pop(change.id, None) for change in fresh}
        newest = max(fresh, key=lambda change: change.updated_at)
        announced = applied[newest.id]
        since = 0.0 if announced is None else time.monotonic() - announced
        self.lag = max(0.0, (now - newest.updated_at) / 1e6 - since)

    def _run(self) -> None:
        try:
            self.poll()
        except StoreError as error:
            if self._failures.failed(error):
                self._failed()
        else:
            self._failures.worked()
            self._backoff.reset()
            self.polled_at = time.monotonic()

    def _pause(self) -> float:
        if self._failures.failing:
            return self._backoff.pause()
        return self._interval * random.uniform(0.9, 1.1)  # noqa: S311  (no secret)
