"""The greenlet that looks after the folders of workers that are gone (:mod:`proxy.events.orphans`).

Every worker looks, at its start and then every few seconds; the kernel's lock decides who gets one.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.threadpool import ThreadPool

from proxy.events.delivery import Delivery
from proxy.events.orphans import Orphan, orphans

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


class Adoption:
    """Brings what orphans hold to ``deliveries``, and removes what all of ``sinks`` have passed."""

    def __init__(self, root: Path, sinks: Collection[str], deliveries: Sequence[Delivery]) -> None:
        self._root = root
        self._sinks = sinks
        self._deliveries = deliveries
        self._thread = ThreadPool(1)
        self._failing = False
        #: Requests of killed workers that were told of; records that nobody could read.
        self.recovered = 0
        self.damaged = 0
        #: Called with the access tokens that a killed worker has served last. Must not wait.
        self.killed: Callable[[Collection[str]], None] = lambda token_ids: None
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        """What is being adopted stays ours until the process ends, and is an orphan again then."""
        self._greenlet.kill()
        gevent.spawn(self._thread.kill)  # which waits for a thread that hangs

    def _run(self) -> None:
        while True:
            try:
                self._look()
                self._failing = False
            except Exception as error:  # noqa: BLE001  (this greenlet must not end)
                if not self._failing:
                    _log.error("what other workers left in the spool cannot be read: %s", error)
                self._failing = True
            gevent.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        trouble: Exception | None = None
        found = orphans(self._root)
        while (orphan := self._call(next, found, None)) is not None:
            try:
                self._settle(orphan)
            except Exception as error:  # noqa: BLE001  (this folder's alone)
                orphan.release()
                trouble = error
        if trouble is not None:
            raise trouble

    def _settle(self, orphan: Orphan) -> None:
        self._call(orphan.recover)
        if orphan.recovered or orphan.unreadable:
            _log.warning(
                "a worker was killed: its %d open requests become events (%d unreadable)",
                orphan.recovered,
                orphan.unreadable,
            )
        if orphan.token_ids:
            self.killed(orphan.token_ids)
        self.recovered += orphan.recovered
        self.damaged += orphan.unreadable
        if self._deliveries:
            self._bring(orphan)
        self._call(orphan.leave, self._sinks)

    def _bring(self, orphan: Orphan) -> None:
        while True:
            batch = self._call(orphan.read)
            if batch.damaged:
                _log.warning("%d damaged records in the spool were skipped", batch.damaged)
            self.damaged += batch.damaged
            self._wait_until(lambda: all(delivery.free for delivery in self._deliveries))
            for delivery in self._deliveries:
                delivery.add(batch.lines)
            given = [(delivery, delivery.added) for delivery in self._deliveries]
            self._wait_until(lambda: all(sink.done >= count for sink, count in given))  # noqa: B023
            self._call(orphan.accepted, batch)
            if not batch.lines:
                return

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            gevent.sleep(_POLL_SECONDS)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """On the thread: all of this waits for the disk."""

        def guarded() -> Any:
            # Caught over there: gevent prints the traceback of what leaves a pool's thread.
            try:
                return function(*args)
            except Exception as error:  # noqa: BLE001
                return error

        result = self._thread.spawn(guarded).get()
        if isinstance(result, Exception):
            raise result
        return result
