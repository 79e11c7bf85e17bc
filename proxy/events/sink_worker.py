"""One local sink of a worker: its greenlet, its thread, and the lines that it has not accepted yet.

Sinks are independent: lines that a sink did not accept are kept for it, up to a limit, and retried
with growing pauses. Neither its errors nor its stalls affect other sinks. Sinks write on a thread,
because a full pipe or a slow disk would stop the event loop and every stream with it.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool

from proxy.events.sinks.base import Sink
from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog

_log = logging.getLogger(__name__)

_BATCH: Final = 500
#: Seconds without progress after which a sink counts as hanging.
_STALLED_SECONDS: Final = 1.0
_MIN_PAUSE_SECONDS: Final = 0.5
_MAX_PAUSE_SECONDS: Final = 30.0


class SinkWorker:
    """Delivers lines to one sink, in a greenlet of its own."""

    def __init__(self, sink: Sink, backlog: int) -> None:
        """`backlog` is how many lines are kept while the sink does not accept them."""
        self._sink = sink
        self.name = type(sink).__name__
        self._thread = ThreadPool(1)
        # Lines that the sink has not accepted yet, oldest first; the oldest are dropped beyond the
        # backlog. Lines being written are older still, and cannot be dropped.
        self._waiting: deque[bytes] = deque()
        self._writing: list[bytes] = []
        self._backlog = backlog
        self._failures = FailureLog(
            _log.log, f"event sink {self.name}", "fails, its events are kept", level=logging.ERROR
        )
        # Whether the sink hung at the last wait for room; `_moved` is set when a write has ended.
        self._stalled = False
        self._moved = Event()
        # `_wake` is set by new lines and by `finish`; `_finishing` also ends a pause.
        self._wake = Event()
        self._finishing = Event()
        self._greenlet = gevent.spawn(self._run)
        #: Lines dropped beyond the backlog; failed writes.
        self.dropped = 0
        self.errors = 0
        #: Lines ever added; of these, lines that the sink has accepted or that were dropped.
        self.added = 0
        self.done = 0

    @property
    def pending(self) -> int:
        return len(self._waiting) + len(self._writing)

    @property
    def free(self) -> bool:
        """Whether the sink works and has no more than one batch waiting."""
        return not self._failures.failing and self.pending <= _BATCH

    def wait_for_room(self, count: int) -> None:
        """Wait until a slow sink has room for `count` lines.

        A sink that fails or hangs is not waited for: its oldest lines are dropped.
        """
        while len(self._waiting) + count > self._backlog:
            if not self._waiting or self._failures.failing or self._stalled:
                return
            self._moved.clear()
            self._stalled = not self._moved.wait(_STALLED_SECONDS)

    def add(self, lines: Sequence[bytes]) -> None:
        self.added += len(lines)
        self._waiting.extend(lines)
        self._trim()
        self._wake.set()

    def finish(self) -> "gevent.Greenlet[..., None]":
        """Write what waits, with one last attempt if that fails. Returns the ending greenlet."""
        self._finishing.set()
        self._wake.set()
        return self._greenlet

    def _run(self) -> None:
        backoff = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        while self._waiting or not self._finishing.is_set():
            if not self._waiting:
                self._wake.clear()
                self._wake.wait()
                continue
            last_try = self._finishing.is_set()
            if self._write():
                backoff.reset()
                continue
            if last_try:
                break
            self._finishing.wait(backoff.pause())
        if error := self._call(self._sink.close):
            _log.warning("event sink %s could not be closed: %s", self.name, error)
        self._thread.kill()

    def _write(self) -> bool:
        waiting = len(self._waiting)
        size = min(waiting, max(_BATCH, waiting // 4))  # or a busy loop would outrun the sink
        batch = [self._waiting.popleft() for _ in range(size)]
        self._writing = batch
        error = self._call(self._sink.write, batch)
        self._writing = []
        self._stalled = False
        self._moved.set()
        if error is None:
            self._failures.worked()
            self.done = self.added - len(self._waiting)
            return True
        self._failures.failed(error)
        self.errors += 1
        self._waiting.extendleft(reversed(batch))
        self._trim()
        return False

    def _call(self, method: Callable[..., None], *args: Any) -> Exception | None:
        """Call `method` on the sink's thread. Returns what it raised, or None."""

        def guarded() -> Exception | None:
            # Caught on the thread: gevent prints the traceback of what leaves a pool's thread.
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
        if not self._writing:
            self.done = self.added - len(self._waiting)
