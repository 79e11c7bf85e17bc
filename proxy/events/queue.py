"""The queue between the requests and the sinks.

While it is full, its :class:`Gate` holds back new requests; requests in flight still publish their
events, and none of those is dropped. An event is encoded here, when its request closes, so that the
:class:`InFlightTable`, which survives a killed worker, has the whole event.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gevent.event import Event

from proxy.core.usage_event import Intent, UsageEvent
from proxy.events.gate import Gate
from proxy.events.rejected_summary import RejectedSummary
from proxy.events.spool.inflight_table import NO_SLOT, InFlightTable, intent_record
from proxy.events.spool.segment import encode_record

_log = logging.getLogger(__name__)

#: Entries beyond the queue's size. Far more than requests that can be in flight, so only a fault
#: that bypasses the gate reaches the limit, before it takes all memory.
_MAX_EXCESS: Final = 100_000
#: A record; the slot to release once the record is safe elsewhere; and its event, or None for a
#: line that is no usage event.
Entry = tuple[bytes, int, UsageEvent | None]


class EventQueue:
    """Holds up to `size` events. The requests of one process publish, one greenlet takes."""

    def __init__(self, size: int, gate: Gate | None = None) -> None:
        self._size = size
        self._entries: deque[Entry] = deque()
        # Set by the first entry while the taking greenlet sleeps.
        self._wake = Event()
        self._asleep = False
        #: Closed while the queue is full.
        self.gate = gate or Gate()
        #: The table of this worker. Without one a killed worker loses its events in memory.
        self.inflight_table: InFlightTable | None = None
        #: Counts refusals of unknown tokens beyond a rate, which then are no entries.
        self.refusals = RejectedSummary()
        # Slots that hold the summaries so far.
        self._held: list[int] = []
        #: Sees the events that are no entries. Must not wait and must not raise.
        self.observe: Callable[[Sequence[UsageEvent]], None] = lambda events: None
        #: Events dropped beyond the limit; events that could not be encoded.
        self.dropped = 0
        self.unwritable = 0

    def __len__(self) -> int:
        return len(self._entries)

    def record_intent(self, intent: Intent) -> int:
        """Record that a request goes upstream. Returns its slot. Never blocks and never raises."""
        if self.inflight_table is None:
            return NO_SLOT
        try:
            return self.inflight_table.reserve(intent_record(intent))
        except Exception as error:  # noqa: BLE001
            _log.error("an intent cannot be written", exc_info=error)
            return NO_SLOT

    def publish(self, event: UsageEvent) -> None:
        """Add an event. Never blocks and never raises."""
        if event.token is None and event.outcome == "rejected" and self.refusals.handles(event):
            self.release(event.slot)
            self.observe([event])
            return
        slot = event.slot
        try:
            record = encode_record(event.line())
        except Exception as error:  # noqa: BLE001
            _log.error("a usage event cannot be written", exc_info=error)
            self.unwritable += 1
            self.release(slot)
            return
        if self.inflight_table is not None:
            if slot == NO_SLOT:
                slot = self.inflight_table.reserve_finished(record)
            else:
                self.inflight_table.finish(slot, record)
        self._put((record, slot, event))

    def publish_line(self, line: bytes) -> None:
        """Add a JSON line that is no usage event. Never blocks and never raises."""
        record = encode_record(line)
        slot = (
            NO_SLOT if self.inflight_table is None else self.inflight_table.reserve_finished(record)
        )
        self._put((record, slot, None))

    def sum_up(self, *, stopping: bool = False) -> None:
        """Publish the summaries of past minutes, and store the running ones in slots, so that a
        killed worker loses at most what it counted since the last call."""
        for line in self.refusals.finished(stopping=stopping):
            self.publish_line(line)
        before, self._held = self._held, []
        if self.inflight_table is not None:
            held = [
                self.inflight_table.reserve_finished(encode_record(line))
                for line in self.refusals.running()
            ]
            self._held = [slot for slot in held if slot != NO_SLOT]
        for slot in before:
            self.release(slot)

    def _put(self, entry: Entry) -> None:
        entries = self._entries
        entries.append(entry)
        if self._asleep:
            self._wake.set()
        if len(entries) >= self._size:
            self._fill()

    def _fill(self) -> None:
        """Close the gate: from now on there is room only for requests in flight."""
        self.gate.queue_full(True)
        if len(self._entries) > self._size + _MAX_EXCESS:
            self.dropped += 1
            self.release(self._entries.pop()[1])

    def release(self, slot: int) -> None:
        """Release the slot of an event that is safe elsewhere or given up."""
        if slot != NO_SLOT and self.inflight_table is not None:
            self.inflight_table.release(slot)

    def take(self, max_events: int, wait: float | None) -> list[Entry]:
        """Returns up to `max_events` entries. Waits up to `wait` seconds for the first, or
        without limit if it is None."""
        entries = self._entries
        if not entries and wait != 0:
            self._wake.clear()
            self._asleep = True
            try:
                self._wake.wait(wait)
            finally:
                self._asleep = False
        batch = [entries.popleft() for _ in range(min(max_events, len(entries)))]
        if self.gate.closed and len(entries) < self._size:
            self.gate.queue_full(False)
        return batch
