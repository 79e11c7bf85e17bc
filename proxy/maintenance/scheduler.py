"""The maintenance scheduler: one worker of all nodes runs the tasks, in small batches with pauses.

The worker that holds the lease renews it with every run. When it dies, another worker gets the
lease after :data:`LEASE_SECONDS`. No request waits for maintenance, and maintenance may hold up no
other writer. A store that is away or slow is logged once, and tried again a minute later.
"""

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import gevent

from proxy.core.errors import StoreError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

#: The name of the lease.
NAME: Final = "housekeeping"
#: How long a lease lasts. A run ends long before its lease.
LEASE_SECONDS: Final = 150.0
#: Seconds between two runs, jittered by a tenth.
INTERVAL_SECONDS: Final = 60.0
_MAX_RUN_SECONDS: Final = 20.0
#: The longest time until the first run: soon, but not all workers of a starting node at once.
_MAX_FIRST_PAUSE_SECONDS: Final = 5.0
#: Rows per batch.
BATCH: Final = 500
#: Seconds after each round of batches, in which other writers have the database.
_ROUND_PAUSE_SECONDS: Final = 0.1

#: Deletes or changes at most so many rows. Returns how many it dealt with.
Task = Callable[[int], int]


class Lease(Protocol):
    """The leases in the store. Both methods raise StoreError."""

    def take(self, name: str, holder: str, seconds: float) -> bool: ...

    def release(self, name: str, holder: str) -> None: ...


class MaintenanceScheduler:
    """Runs the maintenance tasks while this worker holds the lease. One per worker."""

    def __init__(
        self,
        lease: Lease,
        tasks: Mapping[str, Task],
        *,
        interval: float = INTERVAL_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
        first: float = _MAX_FIRST_PAUSE_SECONDS,
    ) -> None:
        """Create the scheduler.

        Args:
            lease: The leases.
            tasks: Name (the label of a metric) → task.
            interval: Seconds between two runs.
            lease_seconds: How long a lease lasts without being renewed.
            first: The longest time until the first run, in seconds.
        """
        self._lease = lease
        self._tasks = dict(tasks)
        self._lease_seconds = lease_seconds
        self._holder = os.urandom(16).hex()
        # Whether this worker got the lease when it last asked.
        self._holds = False
        self._failures = {
            name: FailureLog(_log.log, f"housekeeping: {name}", "has to wait")
            for name in ("lease", *tasks)
        }
        self._runs = PeriodicTask(
            self.run_once,
            lambda: interval * random.uniform(0.9, 1.1),  # noqa: S311  (no secret)
            failure="housekeeping: a run failed",
            log=_log,
            first_pause=lambda: random.uniform(first / 5, first),  # noqa: S311  (no secret)
        )
        #: Task → rows that this worker dealt with since its start.
        self.rows: dict[str, int] = dict.fromkeys(tasks, 0)

    def start(self) -> None:
        self._runs.start()

    def close(self, deadline: float) -> None:
        """Roll back the batch in progress, and release the lease for another worker. Idempotent.

        Releasing takes at most `deadline` seconds.
        """
        if not self._runs.started:
            return
        self._runs.kill()
        if self._holds:
            self._holds = False
            with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
                self._run_guarded("lease", lambda: self._lease.release(NAME, self._holder))

    def run_once(self) -> dict[str, int]:
        """Run the tasks once if this worker gets the lease. Returns task → rows, without zeros."""
        ends = time.monotonic() + min(_MAX_RUN_SECONDS, self._lease_seconds / 2)
        self._holds = bool(self._run_guarded("lease", self._take))
        done: dict[str, int] = {}
        waiting = dict(self._tasks) if self._holds else {}
        # In rounds, so that no task waits for the end of another's thousands of batches.
        while waiting and time.monotonic() < ends:
            for name, task in list(waiting.items()):
                rows = self._run_guarded(name, partial(task, BATCH)) or 0
                if rows:
                    done[name] = done.get(name, 0) + rows
                    self.rows[name] += rows
                if rows < BATCH:
                    del waiting[name]
            if waiting:
                gevent.sleep(_ROUND_PAUSE_SECONDS)
        if done:
            listed = ", ".join(f"{name} {rows}" for name, rows in done.items())
            _log.info("housekeeping: rows: %s", listed, extra={"rows": done})
        return done

    def _take(self) -> int:
        return int(self._lease.take(NAME, self._holder, self._lease_seconds))

    def _run_guarded(self, what: str, work: Callable[[], int | None]) -> int | None:
        """Return what `work` returns, or None when it fails.

        A failure is logged once until `work` succeeds again.
        """
        try:
            result = work()
        except Exception as error:  # noqa: BLE001  (a defect in one task must not end the others)
            self._failures[what].failed(error, traceback=not isinstance(error, StoreError))
            return None
        self._failures[what].worked()
        return result
