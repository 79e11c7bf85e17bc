"""The greenlets that move events from the queue to the spool and to the worker's own sinks.

They run beside the path of requests. A batch goes to the spool first, then its slots are released,
then it goes to the local sinks.

Note: a stop may come while a batch is being forwarded. A greenlet that waits for a thread can be
killed, but the thread goes on.
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
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

#: Events of a batch, and of the largest batch when more wait.
_BATCH: Final = 500
_MAX_BATCH: Final = 8192
#: Seconds between two batches. Waiting events are in their slots and cannot be lost.
_LINGER_SECONDS: Final = 0.05
_MAINTAIN_INTERVAL_SECONDS: Final = 1.0
#: Seconds between two attempts to write to a full disk.
_RETRY_SECONDS: Final = 1.0
#: Events observed before the greenlet yields, which is as long as a request may have to wait: the
#: minimum; and the maximum of an eighth of the waiting events.
_MIN_EVENTS_PER_TURN: Final = 5
_MAX_EVENTS_PER_TURN: Final = 256
#: A sleep that lets the loop poll its sockets once; after a sleep of 0 gevent would not poll.
_YIELD_SECONDS: Final = 1e-6


class EventPump:
    """Moves events from `queue` to the spool and to `sinks` until :meth:`close`."""

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
        """`backlog` is how many events are kept for a sink or a spool that does not accept them.
        With `refuse_when_full` new requests are refused while the spool accepts nothing.

        `observe` sees each batch before the sinks do. It must not raise and must not wait.
        """
        self._queue = queue
        self._observe = queue.observe = observe
        self._backlog = backlog
        #: The worker's spool; None without one, as `recovery` is.
        self.spool_writer = spool_writer
        self._thread = ThreadPool(1)
        self.sink_workers = [SinkWorker(sink, backlog) for sink in sinks]
        # Taken from the queue and not forwarded yet; `_idle` is set while there is nothing.
        self._batch: list[Entry] = []
        self._idle = Event()
        self._idle.set()
        # Records that the spool's disk did not accept, oldest first; time of the last attempt.
        self._kept: list[tuple[bytes, int]] = []
        self._attempted_at = 0.0
        self._refuse_when_full = refuse_when_full
        # Offsets in the spool, each with how many lines each sink worker had been given by then.
        self._handed_over: deque[tuple[list[int], Offset]] = deque()
        self._local_offset: Offset | None = None
        self._maintenance = PeriodicTask(
            self._maintain_spool,
            lambda: _MAINTAIN_INTERVAL_SECONDS,
            failure="event pump: the maintenance of the spool failed",
            log=_log,
        )
        self._failures = FailureLog(
            _log.log, "event pump", "the spool cannot be maintained", level=logging.ERROR
        )
        self._greenlet = gevent.spawn(self._run)
        self._maintenance.start()
        self.recovery: SpoolRecovery | None = None
        if spool_writer is not None:
            spool_writer.open()
            self._log_notices()
            queue.inflight_table = spool_writer.inflight_table
            self.recovery = SpoolRecovery(spool_writer.root, spool_writer.sinks, self.sink_workers)

    def close(self, deadline: float) -> None:
        """Write what is left, for at most `deadline` seconds; what remains then is logged.

        A disk or a sink that hangs keeps its thread, which is left behind.
        """
        ends = time.monotonic() + deadline

        def rest(share: float = 1.0) -> float:
            return max(0.0, (ends - time.monotonic()) * share)

        self._idle.wait(rest(0.3))
        self._greenlet.kill()
        self._maintenance.kill()
        self._queue.sum_up(stopping=True)
        if self.recovery is not None:
            self.recovery.close()
        attempted = False
        with contextlib.suppress(gevent.Timeout):
            while self._batch or len(self._queue) or (self._kept and not attempted):
                attempted = True
                self._take(0, self._batch_size())
                with gevent.Timeout(rest(0.5)):
                    self._forward(again=True)
        while self._batch or len(self._queue):  # the spool's disk hangs; the slots keep the events
            self._take(0, self._batch_size())
            self._deliver(None, ())
        gevent.joinall([worker.finish() for worker in self.sink_workers], timeout=rest(0.8))
        if self.spool_writer is not None:
            with contextlib.suppress(gevent.Timeout), gevent.Timeout(max(0.05, rest())):
                self._on_thread(self.spool_writer.close, self._passed_offset())
        self._log_losses()
        gevent.spawn(self._thread.kill)  # which waits for a thread that hangs

    def _run(self) -> None:
        while True:
            max_events = self._batch_size()
            for worker in self.sink_workers:
                worker.wait_for_room(max_events)
            self._take(_RETRY_SECONDS if self._kept else None, max_events)
            self._forward()
            self._idle.set()
            if len(self._queue) < _BATCH and not self._queue.gate.closed:
                # A batch of one event costs as much as one of a hundred: the pause collects some.
                gevent.sleep(_LINGER_SECONDS)

    def _batch_size(self) -> int:
        """Maximum events of the next batch; never more than a sink may have waiting."""
        return min(max(_BATCH, len(self._queue)), _MAX_BATCH, self._backlog)

    def _take(self, wait: float | None, max_events: int) -> None:
        queue = self._queue
        batch = queue.take(max_events, wait)
        self._batch += batch
        self._idle.clear()
        start, per_turn = 0, _MIN_EVENTS_PER_TURN
        while start < len(batch):
            chosen = batch[start : start + per_turn]
            self._observe([event for _, _, event in chosen if event is not None])
            start += len(chosen)
            before = len(queue)
            gevent.sleep(_YIELD_SECONDS)
            # One turn of a busy loop serves up to one request per connection: with a turn
            # shorter than what came in during that turn, the pump would never catch up.
            waiting = len(queue)
            per_turn = max(
                _MIN_EVENTS_PER_TURN, min(waiting // 8, _MAX_EVENTS_PER_TURN), waiting - before
            )

    def _forward(self, *, again: bool = False) -> None:
        if any(len(record) > MAX_LINE_BYTES for record, _, _ in self._batch):
            self._batch = [(capped(record), slot, event) for record, slot, event in self._batch]
        offset, slots = self._spool(list(self._kept), again=again)
        self._deliver(offset, slots)

    def _spool(
        self, kept: list[tuple[bytes, int]], *, again: bool
    ) -> tuple[Offset | None, list[int]]:
        """Append the kept records and then the batch to the spool.

        Returns the offset behind them, or None when not all were accepted, and the slots that are
        no longer needed.
        """
        brought = kept + [(record, slot) for record, slot, _ in self._batch]
        offset, accepted = None, len(brought)
        if self.spool_writer is not None and brought:
            accepted = 0
            # A full disk is retried at intervals, or the kept records would go with every batch.
            if again or not kept or time.monotonic() - self._attempted_at >= _RETRY_SECONDS:
                records = [record for record, _ in brought]
                local, self._attempted_at = self._passed_offset(), time.monotonic()
                try:
                    offset = self._on_thread(
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
        settled = brought[:accepted] + rest[self._backlog :]
        return offset, [slot for _, slot in settled]

    @property
    def kept(self) -> int:
        """Number of events that wait for the spool's disk."""
        return len(self._kept)

    def _deliver(self, offset: Offset | None, slots: Sequence[int]) -> None:
        """Give the batch to the local sinks, and release `slots`, whose events are safe or given
        up."""
        batch, self._batch = self._batch, []
        lines = [record[PREFIX:] for record, _, _ in batch]
        for worker in self.sink_workers:
            worker.add(lines)
        if offset is not None:
            self._handed_over.append(([worker.added for worker in self.sink_workers], offset))
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
        """Publish summaries of refusals, and maintain the spool if there is one."""
        spool_writer = self.spool_writer
        self._queue.sum_up()
        if spool_writer is None:
            return
        try:
            self._on_thread(spool_writer.maintain, self._passed_offset())
        except Exception as error:  # noqa: BLE001  (the next call tries again)
            self._failures.failed(error, traceback=True)
        else:
            self._failures.worked()
        self._queue.inflight_table = spool_writer.inflight_table

    def _passed_offset(self) -> Offset | None:
        """The spool's offset that every local sink has passed; None before the first."""
        done = [worker.done for worker in self.sink_workers]
        while self._handed_over and all(
            count <= passed for count, passed in zip(self._handed_over[0][0], done, strict=True)
        ):
            self._local_offset = self._handed_over.popleft()[1]
        return self._local_offset

    def _log_losses(self) -> None:
        lost = self._queue.dropped + self._queue.unwritable
        lost += sum(worker.dropped for worker in self.sink_workers)
        pending = sum(worker.pending for worker in self.sink_workers)
        kept = 0 if self.spool_writer is None else max(0, pending - self.spool_writer.unspooled)
        if lost + pending - kept:
            _log.error("%d usage events could not be written", lost + pending - kept)
        if kept:
            _log.warning("%d usage events wait in the spool for the next start", kept)
