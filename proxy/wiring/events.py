"""The events of a worker: its queue, its local sinks, and the spool for all other sinks."""

from collections.abc import Callable, Sequence
from typing import Final

from proxy.core.usage_event import UsageEvent
from proxy.events.gate import MAX_WAIT_SECONDS, Gate
from proxy.events.pump import EventPump
from proxy.events.queue import EventQueue
from proxy.events.sinks import from_event_log, shipped
from proxy.events.spool.retention import LOCAL
from proxy.events.spool.writer import SpoolSettings, SpoolWriter
from proxy.settings.settings import Settings
from proxy.wiring.sinks import sink_options

#: Slots of the in-flight table for events that wait in the queue: 32 MiB of disk.
_MAX_WAITING_SLOTS: Final = 16_384


def event_queue(settings: Settings) -> EventQueue:
    gate = Gate(MAX_WAIT_SECONDS if settings.events.queue_full == "wait" else 0.0)
    return EventQueue(settings.events.queue_size, gate)


def spool_settings(settings: Settings, readers: frozenset[str]) -> SpoolSettings:
    """`readers` are the sinks for which the spool keeps what they have not received yet."""
    # One slot for each request in flight and each event that waits.
    waiting = min(settings.events.queue_size, _MAX_WAITING_SLOTS)
    return SpoolSettings(
        root=settings.data_dir.absolute() / "spool",
        sinks=readers,
        max_bytes=settings.events.spool_max_bytes,
        fsync_interval=settings.events.spool_fsync_interval,
        slots=settings.server.max_concurrent_requests + waiting,
    )


def event_pump(
    settings: Settings, queue: EventQueue, observe: Callable[[Sequence[UsageEvent]], None]
) -> EventPump:
    """Opens files. `observe` is called with all events."""
    sinks = from_event_log(
        settings.events.log,
        max_bytes=settings.events.log_max_bytes,
        backups=settings.events.log_backups,
    )
    readers = frozenset(shipped(sink_options(settings))) | ({LOCAL} if sinks else set())
    return EventPump(
        queue,
        sinks,
        backlog=settings.events.queue_size,
        observe=observe,
        spool_writer=SpoolWriter(spool_settings(settings, readers)),
        refuse_when_full=settings.events.on_spool_full == "refuse",
    )
