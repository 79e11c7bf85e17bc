"""What must be done now and then, by one worker of all nodes: small batches, with pauses.

A worker that has the lease keeps it by coming back each time; when it dies, another has it after
:data:`LEASE`. The thing to get wrong: nobody waits for this, and nothing may wait because of it. A
store that is away or slow is told once, and tried again a minute later.
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

_log = logging.getLogger(__name__)

NAME: Final = "housekeeping"
#: Seconds. A turn is over long before its lease is.
LEASE: Final = 150.0
INTERVAL: Final = 60.0
_TURN: Final = 20.0
#: Soon, but not all workers of a node that starts at once.
_FIRST: Final = 5.0
#: Rows at once, and seconds after each round in which whoever else writes has the database.
BATCH: Final = 500
_PAUSE: Final = 0.1

#: Deletes or changes so many rows at the most; answers how many.
Task = Callable[[int], int]


class Lease(Protocol):
    """The store's lease, as seen from here."""

    def take(self, name: str, holder: str, seconds: float) -> bool: ...

    def release(self, name: str, holder: str) -> None: ...


class MaintenanceScheduler:
    """One per worker. ``chores``: name (of a metric's label) → what is done."""

    def __init__(
        self,
        lease: Lease,
        chores: Mapping[str, Task],
        *,
        interval: float = INTERVAL,
        lease_seconds: float = LEASE,
        first: float = _FIRST,
    ) -> None:
        self._lease = lease
        self._chores = dict(chores)
        self._interval = interval
        self._lease_seconds = lease_seconds
        self._first = first
        self._holder = os.urandom(16).hex()
        # Whether the lease was ours when last asked for; what fails, and was told.
        self._holds = False
        self._failing: set[str] = set()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        #: By this worker, since its start.
        self.rows: dict[str, int] = dict.fromkeys(chores, 0)

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """What is just being done is rolled back; another worker may go on at once. Idempotent."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return
        greenlet.kill()
        if self._holds:
            self._holds = False
            with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
                self._run_guarded("lease", lambda: self._lease.release(NAME, self._holder))

    def turn(self) -> dict[str, int]:
        """One turn, if it is this worker's: rows by chore, of those that had any."""
        ends = time.monotonic() + min(_TURN, self._lease_seconds / 2)
        self._holds = bool(self._run_guarded("lease", self._take))
        done: dict[str, int] = {}
        waiting = dict(self._chores) if self._holds else {}
        # In rounds, so that none waits for the end of another's thousands of batches.
        while waiting and time.monotonic() < ends:
            for name, chore in list(waiting.items()):
                rows = self._run_guarded(name, partial(chore, BATCH)) or 0
                if rows:
                    done[name] = done.get(name, 0) + rows
                    self.rows[name] += rows
                if rows < BATCH:
                    del waiting[name]
            if waiting:
                gevent.sleep(_PAUSE)
        if done:
            told = ", ".join(f"{name} {rows}" for name, rows in done.items())
            _log.info("housekeeping: rows: %s", told, extra={"rows": done})
        return done

    def _run(self) -> None:
        gevent.sleep(random.uniform(self._first / 5, self._first))  # noqa: S311  (no secret)
        while True:
            self.turn()
            gevent.sleep(self._interval * random.uniform(0.9, 1.1))  # noqa: S311

    def _take(self) -> int:
        return int(self._lease.take(NAME, self._holder, self._lease_seconds))

    def _run_guarded(self, what: str, work: Callable[[], int | None]) -> int | None:
        """What ``work`` answers; None when it fails, which is told once until it works again."""
        try:
            answer = work()
        except StoreError as error:
            if what not in self._failing:
                _log.warning("housekeeping: %s has to wait: %r", what, error.__cause__ or error)
            self._failing.add(what)
            return None
        except Exception:  # noqa: BLE001  (a defect in one chore must not end the others)
            if what not in self._failing:
                _log.exception("housekeeping: %s failed", what)
            self._failing.add(what)
            return None
        if what in self._failing:
            self._failing.discard(what)
            _log.info("housekeeping: %s works again", what)
        return answer
