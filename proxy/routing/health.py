"""What workers share of the health of keys and targets: cooldowns as facts, breakers as hints.

A cooldown is a fact about the upstream's account, so it holds in all workers. An open breaker may
be the fault of one node's network, so it only makes the others more careful.

The database carries both, as durations by its own clock. Every worker exchanges what is new at each
interval, in a greenlet of its own, never in a request. With Redis, the others are woken as soon as
something was written. A wake-up carries nothing, because every client of that Redis may publish.

Nothing runs while there are no pools.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.core.errors import StoreError
from proxy.routing.circuit_breaker import CircuitBreaker
from proxy.routing.key_pool import MAX_COOLDOWN_SECONDS, KeyPool
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.store.key_health import HealthChanges, KeyHealthRecord, KeyReport
from proxy.store.rows import to_micros

_log = logging.getLogger(__name__)

#: The Redis channel on which workers are woken.
CHANNEL: Final = "proxy:health"
#: What is published there. The listener's bus passes on nothing but ids, and this one says nothing.
WAKE_UP: Final = ("00000000-0000-0000-0000-000000000000",)
#: Before a provider's id: a row that is a hint about its breaker, and no key's.
_BREAKER: Final = "breaker:"
#: How far each read reaches back, in microseconds: longer than a transaction can last.
_OVERLAP_MICROSECONDS: Final = 15_000_000
#: Seconds between two exchanges at least, however much happens.
_MIN_INTERVAL: Final = 0.25
#: Seconds for which counts may wait, while there is nothing else to report.
_COUNTS_INTERVAL: Final = 10.0
#: Longer names have no room in the table. Their cooldowns stay in this worker.
_MAX_MODEL_LENGTH: Final = 256
#: Reports that may wait. Clients may choose the models' names.
_MAX_PENDING: Final = 1000
#: Models of one key, or provider, that are reported within `_MODELS_INTERVAL` seconds. Each has a
#: row in the table, and a client may write a new name with every request.
_MAX_MODELS: Final = 256
_MODELS_INTERVAL: Final = 3600.0


class HealthStore(Protocol):
    """See :class:`proxy.store.key_health.KeyHealth`. Both methods raise StoreError."""

    def write(self, reports: list[KeyReport]) -> None: ...

    def read(self, since: int = 0) -> HealthChanges: ...


@dataclass(slots=True)
class _Pending:
    """A cooldown that is to be reported: the monotonic time of its end."""

    until: float
    status: int | None


class HealthBoard:
    """Reports what happens in this worker, and applies what others report. One per worker.

    Args:
        store: Holds the reports of all workers.
        interval: Seconds between two exchanges.
        clock: Returns monotonic seconds.
        breaker: Returns the breaker of a provider's id and a model. None: this worker has none.
        announce: Wakes the other workers. Called after a write that they should read.
    """

    def __init__(
        self,
        store: HealthStore,
        *,
        interval: float,
        clock: Callable[[], float],
        breaker: Callable[[str, str], CircuitBreaker | None],
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._breaker = breaker
        self._announce = announce
        self._pools: tuple[KeyPool, ...] = ()
        # The ids of their keys.
        self._keys: frozenset[str] = frozenset()
        # Key id, or `_BREAKER` and a provider's id, and a model, or "" for all.
        self._pending: dict[tuple[str, str], _Pending] = {}
        # Key id, or `_BREAKER` and a provider's id → models reported since `_models_since`.
        self._models: dict[str, set[str]] = {}
        self._models_since = clock()
        # Key id → the counts of successes and failures that were reported.
        self._reported: dict[str, tuple[int, int]] = {}
        self._counted_at = clock()
        # The database's time up to which everything was read; None before the first read.
        self._seen_until: int | None = None
        # That of the first read. Older resets are of no concern to what began after them.
        self._started_at = 0
        # What was applied within the overlap → the time of its change.
        self._applied: dict[tuple[str, str], int] = {}
        # Key id → its last reset that was applied.
        self._resets: dict[str, int] = {}
        self._failures = FailureLog(
            _log.log,
            "upstream keys",
            "cooldowns are not shared with other workers",
            "cooldowns are shared again",
        )
        self._task = PeriodicTask(
            self._run,
            lambda: interval,
            failure="upstream keys: an exchange of their health failed",
            log=_log,
            first_pause=lambda: 0.0,
            min_pause=min(interval, _MIN_INTERVAL),
        )

    def set_pools(self, pools: Iterable[KeyPool]) -> None:
        """Exchange the health of these pools from now on. Without pools, nothing runs."""
        self._pools = tuple(pools)
        keys = frozenset(health.key_id for pool in self._pools for health in pool.health())
        if not keys <= self._keys:
            # What was reported on the new keys is still to be read.
            self._seen_until = None
            self._applied.clear()
        self._keys = keys
        if self._pools and not self._task.started:
            self._task.start()
        elif not self._pools and self._task.started:
            self._task.kill()
            self._started_at = 0
            self._pending.clear()

    def close(self) -> None:
        """End the task, and report what is left. Idempotent; waits for the database."""
        if not self._task.started:
            return
        self._task.finish()
        try:
            self._write(everything=True)
        except StoreError as error:
            _log.warning("upstream keys: the last counts are lost: %s", error.__cause__ or error)

    def cooled(self, key_id: str, model: str | None, seconds: float, status: int) -> None:
        """Report a cooldown that began here, soon. Does not wait."""
        self._report(key_id, model or "", seconds, status)

    def opened(self, provider_id: str, model: str, seconds: float) -> None:
        """Report a breaker that opened here, soon. Does not wait."""
        self._report(_BREAKER + provider_id, model, seconds, None)

    def on_message(self, _: Collection[str]) -> None:
        """Read soon: another worker has written."""
        self._task.wake()

    def set_subscribed(self, _: bool) -> None:
        """Read soon: wake-ups may have been missed."""
        self._task.wake()

    def exchange(self) -> None:
        """Read what others report, and report what is new. Raises StoreError.

        After an error, the next exchange covers what this one did not.
        """
        # In this order, so that a reset ends what is not reported yet.
        self._read()
        self._write()

    def _report(self, key_id: str, model: str, seconds: float, status: int | None) -> None:
        cell = (key_id, model)
        if not self._pools or len(model) > _MAX_MODEL_LENGTH or not self._has_row(key_id, model):
            return
        if cell in self._pending or len(self._pending) < _MAX_PENDING:
            self._add_pending(cell, _Pending(self._clock() + seconds, status))
            self._task.wake()

    def _has_row(self, key_id: str, model: str) -> bool:
        """Whether a key may have a row for this model, one more than it has."""
        if not model:
            return True
        now = self._clock()
        if now - self._models_since >= _MODELS_INTERVAL:
            self._models.clear()
            self._models_since = now
        models = self._models.setdefault(key_id, set())
        if model not in models and len(models) >= _MAX_MODELS:
            return False
        models.add(model)
        return True

    def _add_pending(self, cell: tuple[str, str], pending: _Pending) -> None:
        other = self._pending.get(cell)
        if other is None or other.until < pending.until:
            self._pending[cell] = pending

    def _run(self) -> None:
        try:
            self.exchange()
        except StoreError as error:
            self._failures.failed(error)
        else:
            self._failures.worked()

    def _read(self) -> None:
        keys = self._keys
        if self._seen_until is None:
            # Only the time: no row changes after this one. What is older than the longest cooldown
            # is over.
            now = self._store.read(1 << 62).now
            self._started_at = self._started_at or now
            since = now - int(MAX_COOLDOWN_SECONDS * 1e6)
        else:
            since = self._seen_until
        found = self._store.read(since - _OVERLAP_MICROSECONDS)
        applied: dict[tuple[str, str], int] = {}
        for record in found.records:
            cell = (record.key_id, record.model)
            changed = applied[cell] = to_micros(record.updated_at)
            if self._applied.get(cell) != changed:
                self._apply(record, found.now)
        if keys is self._keys:  # else `follow` was called while the database responded
            self._applied, self._seen_until = applied, found.now

    def _apply(self, record: KeyHealthRecord, now: int) -> None:
        if record.reset_at is not None:
            self._reset(record.key_id, to_micros(record.reset_at))
        if record.cooling_until is None:
            return
        seconds = (to_micros(record.cooling_until) - now) / 1e6
        if seconds <= 0:
            return
        if record.key_id.startswith(_BREAKER):
            breaker = self._breaker(record.key_id.removeprefix(_BREAKER), record.model)
            if breaker is not None:
                breaker.hint(seconds)
            return
        for pool in self._pools:
            pool.hear(record.key_id, record.model or None, seconds, record.last_status or 0)

    def _reset(self, key_id: str, moment: int) -> None:
        """End the cooldowns of a key, once per reset."""
        if self._resets.get(key_id, self._started_at) >= moment:
            return
        self._resets[key_id] = moment
        for pool in self._pools:
            pool.reset(key_id)
        self._pending = {cell: one for cell, one in self._pending.items() if cell[0] != key_id}

    def _write(self, *, everything: bool = False) -> None:
        now = self._clock()
        pending, self._pending = self._pending, {}
        reports = {
            cell: KeyReport(*cell, cooling=one.until - now, status=one.status)
            for cell, one in pending.items()
            if one.until > now
        }
        wakes = bool(reports)
        if not (wakes or everything or now - self._counted_at >= _COUNTS_INTERVAL):
            return
        counts = self._add_counts(reports)
        if reports:
            try:
                self._store.write(list(reports.values()))
            except StoreError:
                for cell, one in pending.items():
                    self._add_pending(cell, one)
                raise
        self._reported, self._counted_at = counts, now
        if wakes:
            self._announce()

    def _add_counts(self, reports: dict[tuple[str, str], KeyReport]) -> dict[str, tuple[int, int]]:
        """Add what was counted since the last report. Returns all counts of the pools."""
        counts: dict[str, tuple[int, int]] = {}
        for pool in self._pools:
            for health in pool.health():
                key_id = health.key_id
                counts[key_id] = (health.success_count, health.failure_count)
                successes, failures = self._reported.get(key_id, (0, 0))
                # A key that was away for a while counts from 0 again.
                successes = max(0, health.success_count - successes)
                failures = max(0, health.failure_count - failures)
                if not successes and not failures:
                    continue
                whole = reports.get((key_id, ""))
                reports[key_id, ""] = KeyReport(
                    key_id,
                    "",
                    cooling=None if whole is None else whole.cooling,
                    status=health.last_status,
                    success_count=successes,
                    failure_count=failures,
                )
        return counts
