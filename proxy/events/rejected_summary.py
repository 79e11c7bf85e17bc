"""Refusals of unknown tokens, past a rate: one line a minute and reason instead of one a request.

Anybody can be refused as often as they like. Their events must not fill the queue, the spool and
the log of those who use it; how many there were is still recorded.
"""

import os
import time
from collections.abc import Callable
from typing import Final

import orjson

from proxy.core.usage_event import UsageEvent, rfc3339

#: The field ``event`` of these lines.
SUMMARY: Final = "rejected_summary"
#: Events of their own in a minute, of one worker.
MAX_PER_MINUTE: Final = 600
_MINUTE: Final = 60.0


class _Sum:
    """Of one reason in one minute."""

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
                "request_id": "",  # of none; receivers index every line by it
                "error_code": code,
                "count": self.count,
                "from": rfc3339(self.first),
                "to": rfc3339(self.last),
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


class RejectedSummary:
    """One per worker. Minutes are those of the clock."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._minute = 0
        self._single = 0
        # By error code, of this minute; of minutes that are over.
        self._sums: dict[str, _Sum] = {}
        self._over: list[bytes] = []

    def takes(self, event: UsageEvent) -> bool:
        """Whether the event is counted here, and is no line of its own."""
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
        """The lines of minutes that are over, each once; ``stopping``: of the running one too."""
        self._turn(force=stopping)
        over, self._over = self._over, []
        return over

    def running(self) -> list[bytes]:
        """Those of the running minute, as they are by now."""
        return [found.line(code) for code, found in self._sums.items()]

    def _turn(self, *, force: bool = False) -> None:
        minute = int(self._now() // _MINUTE)
        if minute != self._minute or force:
            self._over += self.running()
            self._sums.clear()
            if minute != self._minute:
                self._minute, self._single = minute, 0
