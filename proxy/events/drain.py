"""The greenlets that take events from the queue to the sinks, off the path of every request.

Each sink stands alone: it has a greenlet and a thread of its own, what it could not take is kept
for it, bounded, and tried again with growing pauses, and neither its errors nor its stalls reach a
neighbour. Sinks write on a thread, since a full pipe or a slow disk would stop the event loop and
every stream with it.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from proxy.events.event import UsageEvent
from proxy.events.queue import EventQueue
from proxy.events.sinks.base import Sink

_log = logging.getLogger(__name__)

_BATCH: Final = 500
#: Seconds between two batches.
_LINGER: Final = 0.05
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


class Delivery:
    """One sink, what waits for it, and the greenlet that brings it there."""

    def __init__(self, sink: Sink, backlog: int) -> None:
        """``backlog``: how many lines are kept while the sink does not take them."""
        self._sink = sink
        self.name = type(sink).__name__
        self._thread = ThreadPool(1)
        # Lines that the sink has not accepted yet, oldest first; the oldest go when it is full.
        # Those that it is just writing are older still, and out of reach.
        self._waiting: deque[bytes] = deque()
        self._writing: list[bytes] = []
        self._backlog = backlog
        self._failing = False
        # Set when lines were added, or when it is time to finish; the second also ends a pause.
        self._wake = Event()
        self._finishing = Event()
        self._greenlet = gevent.spawn(self._run)
        #: Lines given up because the sink stayed away for too long; failed writes.
        self.dropped = 0
        self.errors = 0

    @property
    def pending(self) -> int:
        return len(self._waiting) + len(self._writing)

    def add(self, lines: Sequence[bytes]) -> None:
        self._waiting.extend(lines)
        self._trim()
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
        if error := self._call(self._sink.close):
            _log.warning("event sink %s could not be closed: %s", self.name, error)
        self._thread.kill()

    def _write(self) -> bool:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        self._writing = batch
        error = self._call(self._sink.write, batch)
        self._writing = []
        if error is None:
            if self._failing:
                _log.info("event sink %s works again", self.name)
            self._failing = False
            return True
        if not self._failing:
            _log.error("event sink %s fails, its events are kept: %s", self.name, error)
        self._failing = True
        self.errors += 1
        self._waiting.extendleft(reversed(batch))
        self._trim()
        return False

    def _call(self, method: Callable[..., None], *args: Any) -> Exception | None:
        """On the sink's thread; whatever a sink raises, it is only that sink."""

        def guarded() -> Exception | None:
            # Caught over there: gevent prints the traceback of what leaves a pool's thread.
            try:
                method(*args)
            except Exception as error:  # noqa: BLE001
                return error
            return None

        failure: Exception | None = self._thread.apply(guarded)
        return failure

    def _trim(self) -> None:
        excess = len(self._waiting) - self._backlog
        if excess > 0 and not self.dropped:
            _log.error("event sink %s is behind: its oldest events are dropped", self.name)
        for _ in range(excess):
            self._waiting.popleft()
        self.dropped += max(0, excess)


class Drain:
    """Moves events from ``queue`` to ``sinks`` until :meth:`close`."""

    def __init__(
        self,
        queue: EventQueue,
        sinks: Sequence[Sink],
        *,
        backlog: int,
        observe: Callable[[Sequence[UsageEvent]], None] = lambda events: None,
    ) -> None:
        """``backlog``: how many events are kept for a sink that does not take them.

        ``observe`` sees each batch before the sinks do; it must not raise, nor wait.
        """
        self._queue = queue
        self._observe = observe
        #: Events that could not be turned into a line.
        self.unwritable = 0
        self.deliveries = [Delivery(sink, backlog) for sink in sinks]
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Write what is left, for ``deadline`` seconds at the most; what then remains is logged.

        A sink that hangs keeps its thread, which is left behind.
        """
        self._greenlet.kill()
        while len(self._queue):
            self._distribute(0)
        gevent.joinall([delivery.finish() for delivery in self.deliveries], timeout=deadline)
        lost = self._queue.dropped + self.unwritable
        lost += sum(delivery.pending + delivery.dropped for delivery in self.deliveries)
        if lost:
            _log.error("%d usage events could not be written", lost)

    def _run(self) -> None:
        while True:
            self._distribute(None)
            if len(self._queue) < _BATCH:
                # A batch costs as much with one event as with a hundred: a pause collects some.
                gevent.sleep(_LINGER)

    def _distribute(self, wait: float | None) -> None:
        events = self._queue.take(_BATCH, wait)
        self._observe(events)
        lines = [line for event in events if (line := self._line(event))]
        for delivery in self.deliveries:
            delivery.add(lines)

    def _line(self, event: UsageEvent) -> bytes:
        """An event that cannot be written must not take the others with it."""
        try:
            return event.line()
        except Exception as error:  # noqa: BLE001
            _log.error("a usage event cannot be written", exc_info=error)
            self.unwritable += 1
            return b""
