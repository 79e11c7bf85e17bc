"""Growing pauses between tries: twice as long each time, up to a maximum, jittered.

Without the jitter, all clients that an outage has disconnected would come back at the same moments.
"""

import random
from typing import Final

_FIRST_SECONDS: Final = 0.5
_MAX_SECONDS: Final = 30.0


class Backoff:
    """The pauses of one operation that is tried again, in seconds."""

    def __init__(self, first: float = _FIRST_SECONDS, longest: float = _MAX_SECONDS) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """Return the pause after a failure: between half and all of a time that doubles."""
        whole = self._next
        self._next = min(whole * 2, self._longest)
        return whole * random.uniform(0.5, 1)  # noqa: S311

    def reset(self) -> None:
        """Start from the first pause again, after a success."""
        self._next = self._first
