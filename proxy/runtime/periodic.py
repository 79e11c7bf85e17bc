"""A task that runs repeatedly in a greenlet of its own, until it is ended.

The task pauses between two runs. An exception of a run is logged and does not end the task: a
defect in one run must not silently stop all later ones.
"""

import logging
import math
from collections.abc import Callable

import gevent
from gevent.event import Event


class PeriodicTask:
    """Calls `run` after each pause. One greenlet, from `start()` to `finish()` or `kill()`.

    Args:
        run: One run of the task. It may wait.
        pause: Returns the seconds until the next run. `math.inf`: until `wake()`. None: the task
            ends, and may be started again. Called after each run, so that a pause may grow while
            something fails.
        failure: The log line of an unexpected exception of `run`. `wake()` does not cut short the
            pause after one.
        log: The logger of the module that owns the task.
        first_pause: Returns the seconds until the first run; by default a `pause`.
        min_pause: The part of each later pause, in seconds, that `wake()` does not cut short.
    """

    def __init__(
        self,
        run: Callable[[], object],
        pause: Callable[[], float | None],
        *,
        failure: str,
        log: logging.Logger,
        first_pause: Callable[[], float] | None = None,
        min_pause: float = 0.0,
    ) -> None:
        self._run = run
        self._pause = pause
        self._failure = failure
        self._log = log
        self._first_pause = pause if first_pause is None else first_pause
        self._min_pause = min_pause
        self._woken = Event()
        self._finishing = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        #: Whether the task was started and has not ended. An attribute, so that a caller on the
        #: path of a request may check it.
        self.started = False

    def start(self) -> None:
        """Start the task unless it is started. Does not wait."""
        if not self.started:
            self.started = True
            self._finishing.clear()
            self._greenlet = gevent.spawn(self._loop)

    def wake(self) -> None:
        """End the current pause, or the next one when a run is in progress. Does not wait."""
        self._woken.set()

    def finish(self) -> None:
        """Let the current run end, and start no further one. Waits for that run. Idempotent.

        The caller bounds the wait with a `gevent.Timeout`.
        """
        self._finishing.set()
        self._woken.set()
        greenlet = self._forget()
        if greenlet is not None:
            greenlet.join()

    def kill(self) -> None:
        """Interrupt the current run, and start no further one. Idempotent."""
        greenlet = self._forget()
        if greenlet is not None:
            greenlet.kill()

    def _forget(self) -> "gevent.Greenlet[..., None] | None":
        greenlet, self._greenlet = self._greenlet, None
        self.started = False
        return greenlet

    def _loop(self) -> None:
        pause = self._first_pause()
        first, fixed = True, 0.0
        while pause is not None:
            if not first or pause > 0:
                if fixed > 0:
                    self._finishing.wait(fixed)
                self._woken.wait(None if pause == math.inf else max(0.0, pause - fixed))
                self._woken.clear()
            if self._finishing.is_set():
                return
            first = False
            failed = not self._run_once()
            if self._finishing.is_set():
                return
            pause = self._pause()
            fixed = self._min_pause
            if failed and pause is not None and pause != math.inf:
                fixed = max(fixed, pause)
        self._forget()

    def _run_once(self) -> bool:
        try:
            self._run()
        except Exception:  # noqa: BLE001  (a defect must not end the task)
            self._log.exception(self._failure)
            return False
        return True
