"""Between the requests and the sinks: a bounded queue that never makes a request wait.

When it is full the newest event is dropped and counted: the alternative is to hold up answers. An
event is turned into its line here, on the request's own close, so that what outlives a killed
worker (:class:`Intents`) is all of it.
"""

import logging

from gevent.queue import Empty, Full, Queue

from proxy.events.event import Intent, UsageEvent
from proxy.events.intents import NO_SLOT, Intents, intent_record
from proxy.events.records import framed

_log = logging.getLogger(__name__)

#: A framed record, the slot that is to be freed once it is safe elsewhere, and what it tells; None
#: where it tells of no request.
Entry = tuple[bytes, int, UsageEvent | None]


class EventQueue:
    """Holds at most ``size`` events. One process's requests put, one greenlet takes."""

    def __init__(self, size: int) -> None:
        self._queue: Queue[Entry] = Queue(maxsize=size)
        #: The slots of this worker; None: there are none, and a killed worker loses what it holds.
        self.intents: Intents | None = None
        #: Events that found the queue full, since the start; that could not be made a line.
        self.dropped = 0
        self.unwritable = 0

    def __len__(self) -> int:
        return int(self._queue.qsize())

    def begin(self, intent: Intent) -> int:
        """Note that a request goes upstream; the slot is its event's. Never blocks or raises."""
        if self.intents is None:
            return NO_SLOT
        try:
            return self.intents.begin(intent_record(intent))
        except Exception as error:  # noqa: BLE001
            _log.error("an intent cannot be written", exc_info=error)
            return NO_SLOT

    def publish(self, event: UsageEvent) -> None:
        """Never blocks and never raises."""
        slot = event.slot
        try:
            record = framed(event.line())
        except Exception as error:  # noqa: BLE001
            _log.error("a usage event cannot be written", exc_info=error)
            self.unwritable += 1
            self.free(slot)
            return
        if self.intents is not None:
            if slot == NO_SLOT:
                slot = self.intents.hold(record)
            else:
                self.intents.finish(slot, record)
        self._put(record, slot, event)

    def publish_line(self, line: bytes) -> None:
        """What is no usage event, as the JSON line that it is. Never blocks and never raises."""
        record = framed(line)
        self._put(record, NO_SLOT if self.intents is None else self.intents.hold(record), None)

    def _put(self, record: bytes, slot: int, event: UsageEvent | None) -> None:
        try:
            self._queue.put_nowait((record, slot, event))
        except Full:
            self.dropped += 1
            self.free(slot)

    def free(self, slot: int) -> None:
        """The event is safe elsewhere, or given up."""
        if slot != NO_SLOT and self.intents is not None:
            self.intents.free(slot)

    def take(self, most: int, wait: float | None) -> list[Entry]:
        """Up to ``most`` events: waits up to ``wait`` seconds (None: for ever) for the first."""
        batch: list[Entry] = []
        try:
            batch.append(self._queue.get(timeout=wait) if wait != 0 else self._queue.get_nowait())
            while len(batch) < most:
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch
