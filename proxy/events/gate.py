"""The gate in front of new requests: closed while there is no room for their usage events.

Requests in flight never wait at it; each has room in the queue. So the queue's length is bounded by
its size plus the requests in flight, and no event is dropped to keep it short.
"""

import logging
import time
from typing import Final

import gevent
from gevent.event import Event

from proxy.core.errors import ProxyError

_log = logging.getLogger(__name__)

#: How long a request waits for room in the queue before it is refused.
MAX_WAIT_SECONDS: Final = 30.0
_RETRY_AFTER: Final = 1
#: Between two log lines.
_LOG_INTERVAL_SECONDS: Final = 60.0


class Gate:
    """One per worker. An ordinary request reads :attr:`closed` and nothing else."""

    def __init__(self, max_wait: float = MAX_WAIT_SECONDS) -> None:
        """`max_wait` is how many seconds :meth:`wait_for_room` waits; 0 refuses at once."""
        self.closed = False
        #: Requests that waited for room; requests that were refused.
        self.waited = 0
        self.refused = 0
        self._max_wait = max_wait
        self._room = Event()
        self._room.set()
        self._spool_full = False
        self._logged = -_LOG_INTERVAL_SECONDS

    def queue_full(self, full: bool) -> None:
        """Set whether the queue is full."""
        if full:
            self._room.clear()
        else:
            self._room.set()
        self.closed = full or self._spool_full

    def spool_full(self, full: bool) -> None:
        """Set whether the spool is full, where a full spool refuses requests."""
        self._spool_full = full
        self.closed = full or not self._room.is_set()

    def wait_for_room(self) -> None:
        """Wait until there is room.

        Raises ProxyError ``overloaded`` when there is none in time, or the spool is full.
        """
        if not self._spool_full and self._max_wait and not self._room.is_set():
            self.waited += 1
            self._report("event queue: full, new requests wait")
            self._room.wait(self._max_wait)
        if self._spool_full:
            self._report("event spool: the disk accepts nothing, requests are refused")
            self._refuse("The disk for usage events is full.")
        if not self._room.is_set():
            self._report("event queue: full, requests are refused")
            self._refuse("Usage events cannot be written as fast as requests come.")

    def _report(self, text: str) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_INTERVAL_SECONDS:
            self._logged = now
            # In a greenlet of its own: a request may be cancelled while it holds the log's lock.
            gevent.spawn(_log.warning, text)

    def _refuse(self, message: str) -> None:
        self.refused += 1
        raise ProxyError(message, code="overloaded", retry_after=_RETRY_AFTER)
