"""What a worker's parts know about themselves, read at the moment of a snapshot.

None of it is counted twice: the parts keep plain numbers, and this takes them.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proxy.metrics import process
from proxy.metrics.samples import Samples


class Cache(Protocol):
    """The token cache: entries, and lookups by what they found."""

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
    """Requests that waited for room in the queue; that were refused."""

    waited: int
    refused: int


class Queue(Protocol):
    dropped: int
    unwritable: int

    @property
    def gate(self) -> Gate: ...

    def __len__(self) -> int: ...


class Delivery(Protocol):
    """A sink and what waits for it."""

    dropped: int
    errors: int

    @property
    def name(self) -> str: ...

    @property
    def pending(self) -> int: ...


class Intents(Protocol):
    missed: int


class Journal(Protocol):
    """One worker's side of the spool."""

    bytes: int
    dropped: int
    unspooled: int

    @property
    def max_bytes(self) -> int: ...
    @property
    def inflight_table(self) -> Intents | None: ...


class Adoption(Protocol):
    """What killed workers left."""

    recovered: int
    damaged: int


class Drain(Protocol):
    @property
    def sink_workers(self) -> Sequence[Delivery]: ...
    @property
    def spool_writer(self) -> Journal | None: ...
    @property
    def recovery(self) -> Adoption | None: ...
    @property
    def kept(self) -> int: ...


class Revocation(Protocol):
    #: Seconds; monotonic time. None: not yet.
    lag: float | None
    looked_at: float | None
    listening: bool | None


class Throttle(Protocol):
    @property
    def refused(self) -> Mapping[str, int]: ...


class Limits(Protocol):
    @property
    def is_up(self) -> bool: ...
    @property
    def throttle(self) -> Throttle: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Of one worker. Functions where the part is made later, or made anew."""

    live: Sized
    live_limit: int
    cache: Cache
    pools: Callable[[], Iterable[Pool]]
    queue: Queue
    queue_limit: int
    drain: Callable[[], Drain | None]
    #: None, as the next: nothing of this worker needs the database.
    revocation: Revocation | None
    database_up: Callable[[], bool] | None
    permits: Callable[[], int]
    audit_dropped: Callable[[], int]
    #: Name of a chore → rows that this worker has dealt with.
    chores: Mapping[str, int]
    limits: Limits
    data_dir: Path
    workers_expected: int
    server_started: float


class WorkerCollector:
    """Reads ``parts`` into figures."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._began = time.monotonic()
        # Sink → when it last had nothing to do, on the monotonic clock.
        self._idle_at: dict[str, float] = {}

    def measure(self, figures: Samples) -> None:
        """Never raises OSError, and waits for nothing but the kernel's own tables."""
        parts = self._parts
        figures.set("proxy_workers", 1)
        figures.set("proxy_workers_expected", parts.workers_expected)
        figures.set("proxy_start_time_seconds", parts.server_started)
        figures.set("proxy_requests_in_flight", len(parts.live))
        figures.set("proxy_requests_in_flight_limit", parts.live_limit)
        if parts.database_up is not None:
            figures.set("proxy_database_up", float(parts.database_up()))
        figures.set("proxy_permits_leased", parts.permits())
        figures.set("proxy_audit_entries_dropped_total", parts.audit_dropped())
        for chore, rows in parts.chores.items():
            figures.set("proxy_housekeeping_rows_total", rows, (chore,))
        figures.set("proxy_limiter_up", float(parts.limits.is_up))
        for limit, count in parts.limits.throttle.refused.items():
            figures.set("proxy_limit_refusals_total", count, (limit,))
        self._cache(figures)
        self._connections(figures)
        self._events(figures)
        self._revocation(figures)
        process.measure(figures, "worker")

    def free_space(self) -> tuple[int, int] | None:
        """Bytes free where DATA_DIR lies, and in all. May wait for the disk."""
        try:
            disk = os.statvfs(self._parts.data_dir)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize

    def _cache(self, figures: Samples) -> None:
        cache = self._parts.cache
        figures.set("proxy_token_cache_entries", len(cache))
        name = "proxy_token_cache_lookups_total"
        figures.set(name, cache.hits, ("hit",))
        figures.set(name, cache.refreshes, ("refresh",))
        figures.set(name, cache.refusals, ("unknown",))
        figures.set(name, cache.misses, ("miss",))

    def _connections(self, figures: Samples) -> None:
        pools = list(self._parts.pools())
        figures.set("proxy_upstream_idle_connections", sum(pool.idle_count for pool in pools))
        name = "proxy_upstream_connections_total"
        figures.set(name, sum(pool.made for pool in pools), ("made",))
        figures.set(name, sum(pool.reused for pool in pools), ("reused",))

    def _events(self, figures: Samples) -> None:
        parts = self._parts
        dropped = "proxy_events_dropped_total"
        figures.set("proxy_event_queue_depth", len(parts.queue))
        figures.set("proxy_event_queue_limit", parts.queue_limit)
        gate = parts.queue.gate
        figures.set("proxy_event_gate_total", gate.waited, ("waited",))
        figures.set("proxy_event_gate_total", gate.refused, ("refused",))
        figures.set(dropped, parts.queue.dropped, ("queue",))
        figures.set(dropped, parts.queue.unwritable, ("unwritable",))
        drain = parts.drain()
        if drain is None:
            return
        self._spool(figures, drain)
        now = time.monotonic()
        for delivery in drain.sink_workers:
            sink = (delivery.name.removesuffix("Sink").lower(),)
            if not delivery.pending:
                self._idle_at[delivery.name] = now
            behind = now - self._idle_at.setdefault(delivery.name, now)
            figures.set("proxy_sink_lag_seconds", behind, sink)
            figures.set("proxy_sink_pending_events", delivery.pending, sink)
            figures.set("proxy_sink_errors_total", delivery.errors, sink)
            figures.set(dropped, delivery.dropped, sink)

    def _spool(self, figures: Samples, drain: Drain) -> None:
        spool_writer, recovery = drain.spool_writer, drain.recovery
        if spool_writer is not None:
            dropped = "proxy_events_dropped_total"
            figures.set(dropped, spool_writer.dropped, ("spool_full",))
            figures.set(dropped, spool_writer.unspooled, ("not_spooled",))
            figures.set("proxy_spool_bytes", spool_writer.bytes)
            figures.set("proxy_spool_kept_events", drain.kept)
            figures.set("proxy_spool_limit_bytes", spool_writer.max_bytes)
            if spool_writer.inflight_table is not None:
                figures.set("proxy_inflight_table_full_total", spool_writer.inflight_table.missed)
        if recovery is not None:
            figures.set("proxy_events_recovered_total", recovery.recovered)
            figures.set("proxy_events_damaged_total", recovery.damaged)

    def _revocation(self, figures: Samples) -> None:
        revocation = self._parts.revocation
        if revocation is None:
            return
        if revocation.lag is not None:
            figures.set("proxy_revocation_lag_seconds", revocation.lag)
        if revocation.listening is not None:
            figures.set("proxy_revocation_listening", float(revocation.listening))
        seen = self._began if revocation.looked_at is None else revocation.looked_at
        figures.set("proxy_revocation_poll_age_seconds", time.monotonic() - seen)
