"""A native thread that writes for one worker, so that locks and disks never hold the event loop.

Jobs wait in a bounded queue and run in batches, in the order in which they came. All of the queue's
state belongs to the event loop's thread; the native thread sees one batch at a time.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event
from gevent.threadpool import ThreadPool


class Job:
    """Work for the thread, and what came of it.

    `size` is the memory in bytes that the job holds while it waits; `done` is set afterwards, if a
    greenlet waits for it.
    """

    __slots__ = ("done", "error", "size", "value", "work")

    def __init__(
        self, work: Callable[[Any], Any], size: int = 0, done: Event | None = None
    ) -> None:
        self.work = work
        self.size = size
        self.done = done
        self.value: Any = None
        self.error: BaseException | None = None


class WriterThread:
    """Runs jobs in batches.

    Args:
        run: Runs one batch, on the thread. It sets `value` or `error` of each job, and must not
            raise.
        max_jobs: Jobs that may wait; `max_bytes` in all.
        max_batch: Jobs of one batch. It also ends with the job by which it exceeds `batch_bytes`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], None],
        *,
        max_jobs: int,
        max_bytes: int,
        max_batch: int,
        batch_bytes: int,
    ) -> None:
        self._run = run
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._max_batch = max_batch
        self._batch_bytes = batch_bytes
        self._waiting: deque[Job] = deque()
        self._waiting_bytes = 0
        self._batch: list[Job] = []
        self._thread: ThreadPool | None = None
        self._idle = Event()
        self._idle.set()

    def offer(self, job: Job) -> bool:
        """Queue a job. Returns False when the queue is full. Does not wait."""
        if len(self._waiting) >= self._max_jobs or self._waiting_bytes + job.size > self._max_bytes:
            return False
        self._waiting.append(job)
        self._waiting_bytes += job.size
        if not self._batch:
            self._start_batch()
        return True

    def call(self, work: Callable[[Any], Any], seconds: float, size: int = 0) -> Any:
        """Run `work` after the jobs that wait already, and return its value.

        Raises its error, or TimeoutError when it has not run after `seconds` or cannot be queued.
        It may still run then.
        """
        done = Event()
        job = Job(work, size, done)
        if not self.offer(job):
            raise TimeoutError("the queue of the writer is full")
        if not done.wait(seconds):
            raise TimeoutError("the writer does not get on")
        if job.error is not None:
            raise job.error
        return job.value

    def flush(self, seconds: float) -> bool:
        """Wait until all jobs have run. Returns False after `seconds`."""
        return bool(self._idle.wait(seconds))

    def close(self, seconds: float) -> bool:
        """Let the jobs run, and end the thread. Returns False if it hangs; it is left behind."""
        idle = self.flush(seconds)
        thread, self._thread = self._thread, None
        if thread is not None:
            gevent.spawn(thread.kill)  # which waits for a thread that hangs
        return idle

    def _start_batch(self) -> None:
        size = 0
        while self._waiting and len(self._batch) < self._max_batch and size < self._batch_bytes:
            job = self._waiting.popleft()
            size += job.size
            self._batch.append(job)
        if not self._batch:
            self._idle.set()
            return
        self._idle.clear()
        if self._thread is None:
            self._thread = ThreadPool(1)
        self._thread.spawn(self._run, self._batch).rawlink(self._batch_ended)

    def _batch_ended(self, _: object) -> None:
        # In the hub, so nothing here may wait.
        batch, self._batch = self._batch, []
        for job in batch:
            self._waiting_bytes -= job.size
            if job.done is not None:
                job.done.set()
        self._start_batch()
