"""The reporter: a worker publishes its samples at intervals, and reads all processes' for a scrape.

Writing and reading wait for a disk, and a page of many series takes time, so both run on a thread:
no stream stops because metrics are read.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import gevent
from gevent.threadpool import ThreadPool

from proxy.core.errors import BackendError
from proxy.metrics.multiprocess import MetricsDirectory
from proxy.metrics.samples import Samples, merge
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Samples are at most a second old, including the time that writing takes.
_INTERVAL_SECONDS: Final = 0.75
_TIMEOUT_SECONDS: Final = 5.0


class Source(Protocol):
    """Measures what is known only at the moment of a snapshot."""

    def measure(self, samples: Samples) -> None: ...

    def free_space(self) -> tuple[int, int] | None:
        """Free bytes and total bytes. Waits for the disk."""
        ...


class Reporter:
    """One per worker. `directories` begin with its server's; others belong to the node."""

    def __init__(
        self, samples: Samples, source: Source, directories: Sequence[MetricsDirectory]
    ) -> None:
        self._samples = samples
        self._source = source
        self._directories = directories
        self._writer = directories[0].writer("worker")
        self._task = PeriodicTask(
            self._publish,
            self._pause,
            failure="metrics: publishing failed",
            log=_log,
            first_pause=lambda: 0.0,
        )
        # Monotonic time at which the next run is due.
        self._due = math.inf
        # Made by `start`. One thread, so that what was dumped first is written first.
        self._thread: Any = None
        self._measuring = _failures(
            "some samples cannot be measured", "all samples are measured again"
        )
        self._tidying = _failures("old samples cannot be added up", "old samples are added up")
        self._writing = _failures(
            "samples cannot be written, other workers show old ones", "samples are written again"
        )
        self._reading = _failures("samples of others cannot be read", "all samples are read again")

    def start(self) -> None:
        self._thread = ThreadPool(1)
        self._thread.spawn(self._tidy)
        self._samples.set("proxy_event_loop_lag_seconds", 0.0)
        self._task.start()

    def read(self, make: Callable[[Samples], T]) -> T:
        """Returns `make(samples)`, run on the thread with the current samples of all processes.

        Raises BackendError when the disk does not respond, or the reporter is not started.
        """
        if self._thread is None:
            raise BackendError("The metrics cannot be read yet.")
        self._measure()
        dumped = self._samples.dump()
        return self._on_thread(lambda: make(self._write_and_read(dumped)))

    def close(self) -> None:
        """Write the last samples, unless that takes too long. Idempotent."""
        if not self._task.started:
            return
        self._task.kill()
        self._measure()
        self._thread.spawn(self._finish, self._samples.dump()).wait(0.2)
        # In a greenlet of its own, because it waits for the thread, which may hang.
        gevent.spawn(self._thread.kill)

    def _publish(self) -> None:
        late = max(0.0, time.monotonic() - self._due)
        self._samples.set("proxy_event_loop_lag_seconds", late)
        self._measure()
        self._thread.apply(self._write, (self._samples.dump(),))
        if space := self._thread.apply(self._source.free_space):
            self._samples.set("proxy_data_dir_free_bytes", space[0])
            self._samples.set("proxy_data_dir_size_bytes", space[1])

    def _pause(self) -> float:
        self._due = time.monotonic() + _INTERVAL_SECONDS
        return _INTERVAL_SECONDS

    def _measure(self) -> None:
        try:
            self._source.measure(self._samples)
        except Exception as error:  # noqa: BLE001  (the other samples are still valid)
            self._measuring.failed(error, traceback=True)
        else:
            self._measuring.worked()

    def _on_thread(self, work: Callable[[], T]) -> T:
        job = self._thread.spawn(work)
        try:
            result: T = job.get(timeout=_TIMEOUT_SECONDS)
        except gevent.Timeout as error:
            raise BackendError("The metrics cannot be read right now.") from error
        return result

    # On the thread. Nothing is raised, because gevent prints what leaves it.

    def _tidy(self) -> None:
        try:
            for directory in self._directories:
                directory.tidy()
            self._directories[0].remove_abandoned()
        except OSError as error:
            self._tidying.failed(error)

    def _write(self, dumped: bytes) -> None:
        try:
            self._writer.write(dumped)
        except OSError as error:
            self._writing.failed(error)
        else:
            self._writing.worked()

    def _write_and_read(self, dumped: bytes) -> Samples:
        # Written first: the next scrape may reach another worker, and must not find less than this
        # one. This worker's own samples come from memory, in case writing failed.
        self._write(dumped)
        found = [Samples.load(dumped)]
        failed = False
        for directory in self._directories:
            try:
                found.append(directory.read(leave_out=self._writer.name))
            except OSError as error:
                failed = True
                self._reading.failed(error)
        if not failed:
            self._reading.worked()
        return merge(found)

    def _finish(self, dumped: bytes) -> None:
        self._write(dumped)
        self._writer.close()


def _failures(failure: str, recovery: str) -> FailureLog:
    return FailureLog(_log.log, "metrics", failure, recovery, level=logging.ERROR)
