"""A task that runs again and again in a greenlet of its own, until it is ended.

The task pauses between two runs. An exception of a run is logged and does not end the task:
a defect in one run must not silently stop all the later ones.
"""

import logging
from collections.abc import Callable

import gevent
from gevent.event import Event


class PeriodicTask:
    """Calls `run` after each pause. One greenlet, from `start()` to `finish()` or `kill()`.

    Args:
        run: One run of the task. It may wait.
        pause: Returns the seconds until the next run. Asked after each run, so a pause may grow
            while something fails.
        failure: The log line of an unexpected exception of `run`.
        log: The logger of the module that owns the task.
        first_pause: Returns the seconds until the first run; by default a `pause`.
        min_pause: Seconds of each later pause that `wake()` does not cut short.
    """

    def __init__(
        self,
        run: Callable[[], object],
        pause: Callable[[], float],
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
        self._finishing = False
        self._greenlet: gevent.Greenlet[..., None] | None = None

    @property
    def started(self) -> bool:
        """Whether the task was started and has not been ended."""
        return self._greenlet is not None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._loop)

    def wake(self) -> None:
        """End the current pause, or the next one when a run is in progress. Does not wait."""
        self._woken.set()

    def finish(self) -> None:
        """Let the current run end, and start no further one. Waits for that run. Idempotent.

        The caller bounds the wait with a `gevent.Timeout`.
        """
        self._finishing = True
        self._woken.set()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.join()

    def kill(self) -> None:
        """Interrupt the current run, and start no further one. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()

    def _loop(self) -> None:
        pause = self._first_pause()
        if pause > 0:
            self._wait(pause)
        while not self._finishing:
            try:
                self._run()
            except Exception:  # noqa: BLE001  (a defect must not end the task)
                self._log.exception(self._failure)
            if self._finishing:
                return
            if self._min_pause:
                gevent.sleep(self._min_pause)
            self._wait(self._pause() - self._min_pause)

    def _wait(self, seconds: float) -> None:
        self._woken.wait(max(0.0, seconds))
        self._woken.clear()
