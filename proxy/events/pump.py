"""The greenlets that take events from the queue to the spool and the worker's own sinks.

Off the path of every request. A batch is first the spool's, then its slots are free, then the local
sinks have it. The thing to get wrong: a stop may come while a batch is in hand, and a greenlet that
waits for a thread can be killed, but the thread goes on.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from proxy.core.usage_event import UsageEvent
from proxy.events.queue import Entry, EventQueue
from proxy.events.sink_worker import SinkWorker
from proxy.events.sinks.base import Sink
from proxy.events.spool.offsets import Offset
from proxy.events.spool.recovery import SpoolRecovery
from proxy.events.spool.segment import PREFIX, capped
from proxy.events.spool.writer import SpoolWriter
from proxy.events.truncate import MAX_LINE_BYTES

_log = logging.getLogger(__name__)

#: Events taken at once, and how many when more wait.
_BATCH: Final = 500
_MAX_BATCH: Final = 8192
#: Seconds between two batches. What waits meanwhile stands in its slots and cannot be lost.
_LINGER: Final = 0.05
_MAINTAIN_INTERVAL_SECONDS: Final = 1.0
#: Seconds between two tries of a disk that took nothing.
_RETRY_SECONDS: Final = 1.0
#: Events observed at a stretch, which is as long as a request may have to wait for it: at least so
#: many; an eighth of those that wait, up to so many.
_OBSERVED: Final = 5
_OBSERVED_OF_MANY: Final = 256
#: Lets the loop look at its sockets once; after a sleep of 0 gevent would go on without that.
_MOMENT: Final = 1e-6


class EventPump:
    """Moves events from ``queue`` to the spool and to ``sinks`` until :meth:`close`."""

    def __init__(
        self,
        queue: EventQueue,
        sinks: Sequence[Sink],
        *,
        backlog: int,
        observe: Callable[[Sequence[UsageEvent]], None] = lambda events: None,
        spool_writer: SpoolWriter | None = None,
        refuse_when_full: bool = False,
    ) -> None:
        """``backlog``: how many events are kept for a sink, or a spool, that does not take them.
        ``refuse_when_full``: new requests are refused while the spool takes nothing.

        ``observe`` sees each batch before the sinks do; it must not raise, nor wait.
        """
        self._queue = queue
        self._observe = queue.observe = observe
        self._backlog = backlog
        #: The worker's spool, and who looks after those of others; None: there is none.
        self.spool_writer = spool_writer
        self._thread = ThreadPool(1)
        self.sink_workers = [SinkWorker(sink, backlog) for sink in sinks]
        # Taken from the queue and not handed on yet; the event is set while there is nothing.
        self._batch: list[Entry] = []
        self._idle = Event()
        self._idle.set()
        # What the spool's disk did not take, oldest first, until it does; when it was last asked.
        self._kept: list[tuple[bytes, int]] = []
        self._asked = 0.0
        self._refuse_when_full = refuse_when_full
        # Positions in the spool, each with how many lines each delivery had been given by then.
        self._given: deque[tuple[list[int], Offset]] = deque()
        self._passed: Offset | None = None
        self._greenlets = [gevent.spawn(self._run), gevent.spawn(self._maintain_spool)]
        self.recovery: SpoolRecovery | None = None
        if spool_writer is not None:
            spool_writer.open()
            self._log_notices()
            queue.inflight_table = spool_writer.inflight_table
            self.recovery = SpoolRecovery(spool_writer.root, spool_writer.sinks, self.sink_workers)

    def close(self, deadline: float) -> None:
        """Write what is left, for ``deadline`` seconds at the most; what then remains is logged.

        A disk or a sink that hangs keeps its thread, which is left behind.
        """
        ends = time.monotonic() + deadline

        def rest(share: float = 1.0) -> float:
            return max(0.0, (ends - time.monotonic()) * share)

        self._idle.wait(rest(0.3))
        gevent.killall(self._greenlets)
        self._queue.sum_up(stopping=True)
        if self.recovery is not None:
            self.recovery.close()
        asked = False
        with contextlib.suppress(gevent.Timeout):
            while self._batch or len(self._queue) or (self._kept and not asked):
                asked = True
                self._take(0, self._batch_size())
                with gevent.Timeout(rest(0.5)):
                    self._forward(again=True)
        while self._batch or len(self._queue):  # the spool's disk hangs; slots keep what is here
            self._take(0, self._batch_size())
            self._deliver(None, ())
        gevent.joinall([delivery.finish() for delivery in self.sink_workers], timeout=rest(0.8))
        if self.spool_writer is not None:
            with contextlib.suppress(gevent.Timeout), gevent.Timeout(max(0.05, rest())):
                self._on_thread(self.spool_writer.close, self._local_position())
        self._log_losses()
        gevent.spawn(self._thread.kill)  # which waits for a thread that hangs

    def _run(self) -> None:
        while True:
            most = self._batch_size()
            for delivery in self.sink_workers:
                delivery.wait_for_room(most)
            self._take(_RETRY_SECONDS if self._kept else None, most)
            self._forward()
            self._idle.set()
            if len(self._queue) < _BATCH and not self._queue.gate.closed:
                # A batch costs as much with one event as with a hundred: a pause collects some.
                gevent.sleep(_LINGER)

    def _batch_size(self) -> int:
        """Events of the next batch, at the most; never more than a sink may have waiting."""
        return min(max(_BATCH, len(self._queue)), _MAX_BATCH, self._backlog)

    def _take(self, wait: float | None, most: int) -> None:
        queue = self._queue
        batch = queue.take(most, wait)
        self._batch += batch
        self._idle.clear()
        start, stretch = 0, _OBSERVED
        while start < len(batch):
            chosen = batch[start : start + stretch]
            self._observe([event for _, _, event in chosen if event is not None])
            start += len(chosen)
            before = len(queue)
            gevent.sleep(_MOMENT)
            # One turn of a busy loop serves up to one request a connection: a stretch that is
            # shorter than what came in meanwhile would fall behind for good.
            waiting = len(queue)
            stretch = max(_OBSERVED, min(waiting // 8, _OBSERVED_OF_MANY), waiting - before)

    def _forward(self, *, again: bool = False) -> None:
        if any(len(record) > MAX_LINE_BYTES for record, _, _ in self._batch):
            self._batch = [(capped(record), slot, event) for record, slot, event in self._batch]
        position, slots = self._spool(list(self._kept), again=again)
        self._deliver(position, slots)

    def _spool(
        self, kept: list[tuple[bytes, int]], *, again: bool
    ) -> tuple[Offset | None, list[int]]:
        """Bring what is in hand, behind what was kept, to the spool. Returns the position behind
        all, if all of it is in, and the slots that are free now."""
        brought = kept + [(record, slot) for record, slot, _ in self._batch]
        position, accepted = None, len(brought)
        if self.spool_writer is not None and brought:
            accepted = 0
            # A full disk is asked once in a while: what is kept would go there with every batch.
            if again or not kept or time.monotonic() - self._asked >= _RETRY_SECONDS:
                records = [record for record, _ in brought]
                local, self._asked = self._local_position(), time.monotonic()
                try:
                    position = self._on_thread(
                        self.spool_writer.append, records, local, self._backlog
                    )
                    accepted = self.spool_writer.accepted
                except Exception as error:  # noqa: BLE001  (this greenlet must not end)
                    _log.error("events could not be spooled", exc_info=error)
            else:
                self.spool_writer.unspooled += max(0, len(brought) - self._backlog)
        rest = brought[accepted:]
        self._kept = rest[: self._backlog]
        if self._refuse_when_full:
            self._queue.gate.spool_full(bool(self._kept))
        gone = brought[:accepted] + rest[self._backlog :]
        return position, [slot for _, slot in gone]

    @property
    def kept(self) -> int:
        """Events that wait for the spool's disk."""
        return len(self._kept)

    def _deliver(self, position: Offset | None, slots: Sequence[int]) -> None:
        """Give the local sinks what is in hand; ``slots``: of what is safe, or given up."""
        batch, self._batch = self._batch, []
        lines = [record[PREFIX:] for record, _, _ in batch]
        for delivery in self.sink_workers:
            delivery.add(lines)
        if position is not None:
            self._given.append(([delivery.added for delivery in self.sink_workers], position))
        for slot in slots:
            self._queue.release(slot)

    def _on_thread(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return self._thread.spawn(method, *args).get()
        finally:
            self._log_notices()

    def _log_notices(self) -> None:
        while self.spool_writer is not None and self.spool_writer.notices:
            _log.log(*self.spool_writer.notices.popleft())

    # Once a second.

    def _maintain_spool(self) -> None:
        """Summaries of refusals; the spool, where there is one."""
        spool_writer, failing = self.spool_writer, False
        while True:
            gevent.sleep(_MAINTAIN_INTERVAL_SECONDS)
            self._queue.sum_up()
            if spool_writer is None:
                continue
            try:
                self._on_thread(spool_writer.maintain, self._local_position())
                failing = False
            except Exception as error:  # noqa: BLE001  (this greenlet must not end)
                if not failing:
                    _log.error("the spool cannot be tended", exc_info=error)
                failing = True
            self._queue.inflight_table = spool_writer.inflight_table

    def _local_position(self) -> Offset | None:
        """Up to where every local sink has what is in the spool; None: nothing yet."""
        done = [delivery.done for delivery in self.sink_workers]
        while self._given and all(
            given <= passed for given, passed in zip(self._given[0][0], done, strict=True)
        ):
            self._passed = self._given.popleft()[1]
        return self._passed

    def _log_losses(self) -> None:
        lost = self._queue.dropped + self._queue.unwritable
        lost += sum(delivery.dropped for delivery in self.sink_workers)
        pending = sum(delivery.pending for delivery in self.sink_workers)
        kept = 0 if self.spool_writer is None else max(0, pending - self.spool_writer.unspooled)
        if lost + pending - kept:
            _log.error("%d usage events could not be written", lost + pending - kept)
        if kept:
            _log.warning("%d usage events wait in the spool for the next start", kept)
