"""Refusals of unknown tokens beyond a rate: one line per minute and reason, not one per request.

Any client can cause refusals without limit. Their events must not fill the queue, the spool and the
log; their number is still recorded.
"""

import os
import time
from collections.abc import Callable
from typing import Final

import orjson

from proxy.core.usage_event import UsageEvent, rfc3339

#: Value of the field ``event``.
SUMMARY: Final = "rejected_summary"
#: Refusals of one worker that have their own event in a minute.
MAX_PER_MINUTE: Final = 600
_MINUTE: Final = 60.0


class _Sum:
    """The refusals of one reason in one minute."""

    __slots__ = ("count", "event_id", "first", "last")

    def __init__(self, started: float) -> None:
        self.event_id = os.urandom(16).hex()
        self.count = 0
        self.first = self.last = started

    def add(self, started: float) -> None:
        self.count += 1
        self.first, self.last = min(self.first, started), max(self.last, started)

    def line(self, code: str) -> bytes:
        return orjson.dumps(
            {
                "event_id": self.event_id,
                "event": SUMMARY,
                "timestamp": rfc3339(self.last),
                "request_id": "",  # of no request; receivers index every line by this field
                "error_code": code,
                "count": self.count,
                "from": rfc3339(self.first),
                "to": rfc3339(self.last),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


class RejectedSummary:
    """One per worker. Counts by the minutes of the clock."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._minute = 0
        self._single = 0
        # Sums of this minute by error code; lines of past minutes.
        self._sums: dict[str, _Sum] = {}
        self._over: list[bytes] = []

    def handles(self, event: UsageEvent) -> bool:
        """Returns whether the event is counted here, and gets no line of its own."""
        self._turn()
        if self._single < MAX_PER_MINUTE:
            self._single += 1
            return False
        code = event.error_code or ""
        found = self._sums.get(code)
        if found is None:
            found = self._sums[code] = _Sum(event.started)
        found.add(event.started)
        return True

    def finished(self, *, stopping: bool = False) -> list[bytes]:
        """The lines of past minutes, each once; with `stopping` of the running one too."""
        self._turn(force=stopping)
        over, self._over = self._over, []
        return over

    def running(self) -> list[bytes]:
        """The lines of the running minute so far."""
        return [found.line(code) for code, found in self._sums.items()]

    def _turn(self, *, force: bool = False) -> None:
        minute = int(self._now() // _MINUTE)
        if minute != self._minute or force:
            self._over += self.running()
            self._sums.clear()
            if minute != self._minute:
                self._minute, self._single = minute, 0
