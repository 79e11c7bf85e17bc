"""Reads the counters and gauges that a worker's parts keep, at the moment of a snapshot.

The parts keep plain numbers, so nothing is counted twice.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from proxy.metrics import cache_counts, process
from proxy.metrics.cache_counts import CacheCounts
from proxy.metrics.samples import Labels, Samples
from proxy.metrics.target_labels import TargetLabels


class TokenCache(Protocol):
    """Its entries, and its lookups by result."""

    hits: int
    refreshes: int
    refusals: int
    misses: int

    def __len__(self) -> int: ...


class Pool(Protocol):
    """Connections to one origin."""

    made: int
    reused: int

    @property
    def idle_count(self) -> int: ...


class Gate(Protocol):
    """Requests that waited for room in the queue; requests that were refused."""

    waited: int
    refused: int


class EventQueue(Protocol):
    dropped: int
    unwritable: int

    @property
    def gate(self) -> Gate: ...

    def __len__(self) -> int: ...


class SinkWorker(Protocol):
    """A sink and the lines that wait for it."""

    dropped: int
    errors: int

    @property
    def name(self) -> str: ...

    @property
    def pending(self) -> int: ...


class InFlightTable(Protocol):
    missed: int


class SpoolWriter(Protocol):
    """One worker's side of the spool."""

    bytes: int
    dropped: int
    unspooled: int

    @property
    def max_bytes(self) -> int: ...
    @property
    def inflight_table(self) -> InFlightTable | None: ...


class SpoolRecovery(Protocol):
    """Recovery of what killed workers left."""

    recovered: int
    damaged: int


class EventPump(Protocol):
    @property
    def sink_workers(self) -> Sequence[SinkWorker]: ...
    @property
    def spool_writer(self) -> SpoolWriter | None: ...
    @property
    def recovery(self) -> SpoolRecovery | None: ...
    @property
    def kept(self) -> int: ...


class ChangePoller(Protocol):
    #: Seconds; monotonic time. None: not yet.
    lag: float | None
    polled_at: float | None
    listening: bool | None


class RequestLimiter(Protocol):
    @property
    def refused(self) -> Mapping[str, int]: ...


class Limits(Protocol):
    @property
    def is_up(self) -> bool: ...
    @property
    def throttle(self) -> RequestLimiter: ...


class Breaker(Protocol):
    """A circuit breaker: `closed`, `half_open` or `open`."""

    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def state(self) -> str: ...


class Key(Protocol):
    """An upstream key; `healthy`, or the word for why it rests."""

    @property
    def key_id(self) -> str: ...
    @property
    def health(self) -> str: ...


class Routing(Protocol):
    """What the worker knows of providers. Names are those of the configuration."""

    #: Provider → retries that its budget has refused; `default` for projects' own keys.
    refused_retries: Mapping[str, int]

    def names(self) -> Sequence[str]: ...
    def breakers(self) -> Sequence[Breaker]: ...
    def key_health(self) -> Sequence[tuple[str, Key]]: ...


_BREAKER_STATES: Final[Mapping[str, int]] = {"closed": 0, "half_open": 1, "open": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerParts:
    """The parts of one worker. A part that is made later, or made again, is given as a function."""

    in_flight: Sized
    in_flight_limit: int
    token_cache: TokenCache
    pools: Callable[[], Iterable[Pool]]
    queue: EventQueue
    queue_limit: int
    pump: Callable[[], EventPump | None]
    #: None, like `database_up`, where the worker uses no database.
    change_poller: ChangePoller | None
    database_up: Callable[[], bool] | None
    permits: Callable[[], int]
    audit_dropped: Callable[[], int]
    #: Name of a maintenance task → rows that this worker has changed.
    tasks: Mapping[str, int]
    limits: Limits
    #: None in pass-through mode.
    routing: Routing | None
    #: Returns None while no response is stored or shared.
    response_cache: Callable[[], CacheCounts | None]
    targets: TargetLabels
    data_dir: Path
    workers_expected: int
    server_started: float


class WorkerCollector:
    """Reads ``parts`` into samples."""

    def __init__(self, parts: WorkerParts) -> None:
        self._parts = parts
        self._began = time.monotonic()
        # Sink → monotonic time at which nothing waited for it.
        self._idle_at: dict[str, float] = {}

    def measure(self, samples: Samples) -> None:
        """Set all samples. Never raises OSError, and reads nothing slower than ``/proc``."""
        parts = self._parts
        samples.set("proxy_workers", 1)
        samples.set("proxy_workers_expected", parts.workers_expected)
        samples.set("proxy_start_time_seconds", parts.server_started)
        samples.set("proxy_requests_in_flight", len(parts.in_flight))
        samples.set("proxy_requests_in_flight_limit", parts.in_flight_limit)
        if parts.database_up is not None:
            samples.set("proxy_database_up", float(parts.database_up()))
        samples.set("proxy_permits_leased", parts.permits())
        samples.set("proxy_audit_entries_dropped_total", parts.audit_dropped())
        for task, rows in parts.tasks.items():
            samples.set("proxy_housekeeping_rows_total", rows, (task,))
        samples.set("proxy_limiter_up", float(parts.limits.is_up))
        for limit, count in parts.limits.throttle.refused.items():
            samples.set("proxy_limit_refusals_total", count, (limit,))
        self._token_cache(samples)
        if (counts := parts.response_cache()) is not None:
            cache_counts.measure(samples, counts)
        self._connections(samples)
        self._events(samples)
        self._revocation(samples)
        self._routing(samples)
        process.measure(samples, "worker")

    def free_space(self) -> tuple[int, int] | None:
        """Free and total bytes of DATA_DIR's file system, or None. May wait for the disk."""
        try:
            disk = os.statvfs(self._parts.data_dir)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    def _token_cache(self, samples: Samples) -> None:
        cache = self._parts.token_cache
        samples.set("proxy_token_cache_entries", len(cache))
        name = "proxy_token_cache_lookups_total"
        samples.set(name, cache.hits, ("hit",))
        samples.set(name, cache.refreshes, ("refresh",))
        samples.set(name, cache.refusals, ("unknown",))
        samples.set(name, cache.misses, ("miss",))

    def _connections(self, samples: Samples) -> None:
        pools = list(self._parts.pools())
        samples.set("proxy_upstream_idle_connections", sum(pool.idle_count for pool in pools))
        name = "proxy_upstream_connections_total"
        samples.set(name, sum(pool.made for pool in pools), ("made",))
        samples.set(name, sum(pool.reused for pool in pools), ("reused",))

    def _events(self, samples: Samples) -> None:
        parts = self._parts
        dropped = "proxy_events_dropped_total"
        samples.set("proxy_event_queue_depth", len(parts.queue))
        samples.set("proxy_event_queue_limit", parts.queue_limit)
        gate = parts.queue.gate
        samples.set("proxy_event_gate_total", gate.waited, ("waited",))
        samples.set("proxy_event_gate_total", gate.refused, ("refused",))
        samples.set(dropped, parts.queue.dropped, ("queue",))
        samples.set(dropped, parts.queue.unwritable, ("unwritable",))
        pump = parts.pump()
        if pump is None:
            return
        self._spool(samples, pump)
        now = time.monotonic()
        for worker in pump.sink_workers:
            sink = (worker.name.removesuffix("Sink").lower(),)
            if not worker.pending:
                self._idle_at[worker.name] = now
            behind = now - self._idle_at.setdefault(worker.name, now)
            samples.set("proxy_sink_lag_seconds", behind, sink)
            samples.set("proxy_sink_pending_events", worker.pending, sink)
            samples.set("proxy_sink_errors_total", worker.errors, sink)
            samples.set(dropped, worker.dropped, sink)

    def _spool(self, samples: Samples, pump: EventPump) -> None:
        spool_writer, recovery = pump.spool_writer, pump.recovery
        if spool_writer is not None:
            dropped = "proxy_events_dropped_total"
            samples.set(dropped, spool_writer.dropped, ("spool_full",))
            samples.set(dropped, spool_writer.unspooled, ("not_spooled",))
            samples.set("proxy_spool_bytes", spool_writer.bytes)
            samples.set("proxy_spool_kept_events", pump.kept)
            samples.set("proxy_spool_limit_bytes", spool_writer.max_bytes)
            if spool_writer.inflight_table is not None:
                samples.set("proxy_inflight_table_full_total", spool_writer.inflight_table.missed)
        if recovery is not None:
            samples.set("proxy_events_recovered_total", recovery.recovered)
            samples.set("proxy_events_damaged_total", recovery.damaged)

    def _revocation(self, samples: Samples) -> None:
        poller = self._parts.change_poller
        if poller is None:
            return
        if poller.lag is not None:
            samples.set("proxy_revocation_lag_seconds", poller.lag)
        if poller.listening is not None:
            samples.set("proxy_revocation_listening", float(poller.listening))
        seen = self._began if poller.polled_at is None else poller.polled_at
        samples.set("proxy_revocation_poll_age_seconds", time.monotonic() - seen)

    def _routing(self, samples: Samples) -> None:
        routing, targets = self._parts.routing, self._parts.targets
        if routing is None:
            return
        refused = {**dict.fromkeys(routing.names(), 0), **routing.refused_retries}
        for provider, count in refused.items():
            label, _ = targets.target(provider, None)
            samples.set("proxy_retry_budget_exhausted_total", count, (label,))
        states: dict[Labels, float] = {}
        for breaker in routing.breakers():
            # Models that clients chose share a label: it shows the worst of them.
            labels = targets.target(breaker.provider, breaker.model)
            states[labels] = max(states.get(labels, 0), _BREAKER_STATES[breaker.state])
        samples.replace("proxy_breaker_state", states)
        healthy: dict[Labels, float] = {
            (provider, key.key_id): float(key.health == "healthy")
            for provider, key in routing.key_health()
        }
        samples.replace("proxy_key_healthy", healthy)
