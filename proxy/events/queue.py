"""Between the requests and the sinks: a bounded queue that never makes a request wait.

When it is full the newest event is dropped and counted: the alternative is to hold up answers.
"""

from gevent.queue import Empty, Full, Queue

from proxy.events.event import UsageEvent


class EventQueue:
    """Holds at most ``size`` events. One process's requests put, one greenlet takes."""

    def __init__(self, size: int) -> None:
        self._queue: Queue[UsageEvent] = Queue(maxsize=size)
        #: Events that found the queue full, since the start.
        self.dropped = 0

    def __len__(self) -> int:
        return int(self._queue.qsize())

    def publish(self, event: UsageEvent) -> None:
        """Never blocks and never raises."""
        try:
            self._queue.put_nowait(event)
        except Full:
            self.dropped += 1

    def take(self, most: int, wait: float | None) -> list[UsageEvent]:
        """Up to ``most`` events: waits up to ``wait`` seconds (None: for ever) for the first."""
        batch: list[UsageEvent] = []
        try:
            batch.append(self._queue.get(timeout=wait) if wait != 0 else self._queue.get_nowait())
            while len(batch) < most:
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch
