"""The greenlets that take events from the queue to the sinks, off the path of every request.

Each sink stands alone: it has a greenlet and a thread of its own, what it could not take is kept
for it, bounded, and tried again with growing pauses, and neither its errors nor its stalls reach a
neighbour. Sinks write on a thread, since a full pipe or a slow disk would stop the event loop and
every stream with it.
"""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from proxy.events.queue import EventQueue
from proxy.events.sinks.base import Sink

_log = logging.getLogger(__name__)

_BATCH: Final = 500
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


class Delivery:
    """One sink, what waits for it, and the greenlet that brings it there."""

    def __init__(self, sink: Sink, backlog: int) -> None:
        """``backlog``: how many lines are kept while the sink does not take them."""
        self._sink = sink
        self._thread = ThreadPool(1)
        # Lines that the sink has not accepted yet, oldest first; the oldest go when it is full.
        self._waiting: deque[bytes] = deque()
        self._backlog = backlog
        # Set when lines were added, or when it is time to finish; the second also ends a pause.
        self._wake = Event()
        self._finishing = Event()
        self._greenlet = gevent.spawn(self._run)
        #: Lines given up because the sink stayed away for too long; failed writes.
        self.dropped = 0
        self.errors = 0

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def add(self, lines: Sequence[bytes]) -> None:
        self._waiting.extend(lines)
        while len(self._waiting) > self._backlog:
            self._waiting.popleft()
            self.dropped += 1
        self._wake.set()

    def finish(self) -> "gevent.Greenlet[..., None]":
        """Write what waits, one last try if that fails; the greenlet ends when it is over."""
        self._finishing.set()
        self._wake.set()
        return self._greenlet

    def _run(self) -> None:
        pause = 0.0
        while self._waiting or not self._finishing.is_set():
            if not self._waiting:
                self._wake.clear()
                self._wake.wait()
                continue
            last_try = self._finishing.is_set()
            if self._write():
                pause = 0.0
                continue
            if last_try:
                break
            pause = min(max(_FIRST_PAUSE, pause * 2), _LONGEST_PAUSE)
            self._finishing.wait(pause)
        self._sink.close()

    def _write(self) -> bool:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        try:
            self._thread.apply(self._sink.write, (batch,))
        except Exception as error:  # noqa: BLE001  (whatever a sink raises, it is only that sink)
            if not self.errors:
                _log.error("event sink %s fails: %s", type(self._sink).__name__, error)
            self.errors += 1
            self._waiting.extendleft(reversed(batch))
            return False
        return True


class Drain:
    """Moves events from ``queue`` to ``sinks`` until :meth:`close`."""

    def __init__(self, queue: EventQueue, sinks: Sequence[Sink], *, backlog: int) -> None:
        """``backlog``: how many events are kept for a sink that does not take them."""
        self._queue = queue
        self.deliveries = [Delivery(sink, backlog) for sink in sinks]
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Write what is left, for ``deadline`` seconds at the most; what then remains is logged."""
        self._greenlet.kill()
        while len(self._queue):
            self._distribute(0)
        gevent.joinall([delivery.finish() for delivery in self.deliveries], timeout=deadline)
        lost = self._queue.dropped + sum(
            delivery.pending + delivery.dropped for delivery in self.deliveries
        )
        if lost:
            _log.error("%d usage events could not be written", lost)

    def _run(self) -> None:
        while True:
            self._distribute(None)

    def _distribute(self, wait: float | None) -> None:
        lines = [event.line() for event in self._queue.take(_BATCH, wait)]
        for delivery in self.deliveries:
            delivery.add(lines)
