"""Once in a while a worker writes its figures to the board; a scrape reads everybody's.

Writing and reading wait for a disk, and a page of many series takes its time, so they happen on a
thread: no stream stops because somebody looks at the figures.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import gevent
from gevent.threadpool import ThreadPool

from proxy.core.errors import BackendError
from proxy.metrics.multiprocess import MetricsDirectory
from proxy.metrics.samples import Samples, merge

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds. Samples are at most a second old, with what writing takes.
_INTERVAL: Final = 0.75
_TIMEOUT_SECONDS: Final = 5.0


class Source(Protocol):
    """What is only known at the moment of a snapshot."""

    def measure(self, figures: Samples) -> None: ...

    def free_space(self) -> tuple[int, int] | None:
        """Bytes free and in all. Waits for the disk."""
        ...


class Reporter:
    """One per worker. ``boards``: its server's first, then others that belong to the node."""

    def __init__(
        self, figures: Samples, source: Source, boards: Sequence[MetricsDirectory]
    ) -> None:
        self._figures = figures
        self._source = source
        self._boards = boards
        self._writer = boards[0].writer("worker")
        self._greenlet: gevent.Greenlet[..., None] | None = None
        # Made at the start. One thread, so that what was dumped first is written first.
        self._thread: Any = None
        # Kinds of trouble that have been logged.
        self._reported: set[str] = set()

    def start(self) -> None:
        self._thread = ThreadPool(1)
        self._greenlet = gevent.spawn(self._run)

    def read(self, make: Callable[[Samples], T]) -> T:
        """What ``make``, on the thread, makes of everybody's figures now.

        BackendError: the disk does not answer, or it is not started.
        """
        if self._thread is None:
            raise BackendError("The figures cannot be read yet.")
        self._measure()
        dumped = self._figures.dump()
        return self._on_thread(lambda: make(self._write_and_read(dumped)))

    def close(self) -> None:
        """Write the last ones; what cannot be written within moments is left. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return
        greenlet.kill()
        self._measure()
        self._thread.spawn(self._finish, self._figures.dump()).wait(0.2)
        # In a greenlet of its own: it waits for the thread, which may hang.
        gevent.spawn(self._thread.kill)

    def _run(self) -> None:
        self._thread.spawn(self._tidy)
        self._figures.set("proxy_event_loop_lag_seconds", 0.0)
        while True:
            self._measure()
            self._thread.apply(self._write, (self._figures.dump(),))
            if space := self._thread.apply(self._source.free_space):
                self._figures.set("proxy_data_dir_free_bytes", space[0])
                self._figures.set("proxy_data_dir_size_bytes", space[1])
            due = time.monotonic() + _INTERVAL
            gevent.sleep(_INTERVAL)
            late = max(0.0, time.monotonic() - due)
            self._figures.set("proxy_event_loop_lag_seconds", late)

    def _measure(self) -> None:
        try:
            self._source.measure(self._figures)
        except Exception as error:  # noqa: BLE001  (the other figures are still good)
            self._tell("some figures cannot be read", error)

    def _on_thread(self, work: Callable[[], T]) -> T:
        job = self._thread.spawn(work)
        try:
            result: T = job.get(timeout=_TIMEOUT_SECONDS)
        except gevent.Timeout as error:
            raise BackendError("The figures cannot be read right now.") from error
        return result

    def _tell(self, what: str, error: Exception) -> None:
        if what not in self._reported:
            _log.error("%s", what, exc_info=error)
        self._reported.add(what)

    # On the thread; raises nothing, as gevent prints what leaves it.

    def _tidy(self) -> None:
        try:
            for board in self._boards:
                board.tidy()
            self._boards[0].remove_abandoned()
        except OSError as error:
            self._tell("old figures cannot be added up", error)

    def _write(self, dumped: bytes) -> None:
        try:
            self._writer.write(dumped)
        except OSError as error:
            self._tell("figures cannot be written, other workers show old ones", error)

    def _write_and_read(self, dumped: bytes) -> Samples:
        # Written first: the next scrape may meet another worker, and must not find less than this
        # one. Our own come from memory, in case that failed.
        self._write(dumped)
        found = [Samples.load(dumped)]
        for board in self._boards:
            try:
                found.append(board.read(leave_out=self._writer.name))
            except OSError as error:
                self._tell("figures of others cannot be read", error)
        return merge(found)

    def _finish(self, dumped: bytes) -> None:
        self._write(dumped)
        self._writer.close()
