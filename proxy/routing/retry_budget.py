"""How many retries a provider gets, so that retries do not multiply the load of one that is ill."""

from collections.abc import Callable
from typing import Final

_SLOTS: Final = 10  # of one second each
_PER_REQUESTS: Final = 10  # one retry per so many requests
_PER_SECOND: Final = 3.0


class RetryBudget:
    """A tenth of the requests of the last ten seconds, and three a second besides.

    One per provider and worker. Only further attempts at the same target draw on it: the next
    target is another provider, and a key that is turned away costs the provider no work.

    Args:
        clock: Returns monotonic seconds.
    """

    __slots__ = ("_clock", "_floor", "_requests", "_second", "_taken", "_updated")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Per second of the window: its requests, and the retries that these paid for.
        self._requests = [0] * _SLOTS
        self._taken = [0] * _SLOTS
        self._updated = clock()
        self._second = int(self._updated)
        self._floor = _PER_SECOND

    @property
    def available(self) -> int:
        """The retries that could be taken now."""
        self._advance()
        return int(self._floor) + self._earned()

    def note_request(self) -> None:
        """Count a request, whatever becomes of it. Its retries are not counted."""
        self._advance()
        self._requests[self._second % _SLOTS] += 1

    def take(self) -> bool:
        """Take one retry. Returns False when none is left."""
        self._advance()
        if self._floor >= 1.0:
            self._floor -= 1.0
            return True
        if self._earned() < 1:
            return False
        self._taken[self._second % _SLOTS] += 1
        return True

    def _earned(self) -> int:
        # Requests leave the window before the retries that they paid for, so this may fall below 0.
        return max(0, sum(self._requests) // _PER_REQUESTS - sum(self._taken))

    def _advance(self) -> None:
        now = self._clock()
        self._floor = min(_PER_SECOND, self._floor + max(0.0, now - self._updated) * _PER_SECOND)
        self._updated = now
        second = int(now)
        for passed in range(min(second - self._second, _SLOTS)):
            slot = (second - passed) % _SLOTS
            self._requests[slot] = self._taken[slot] = 0
        self._second = second
