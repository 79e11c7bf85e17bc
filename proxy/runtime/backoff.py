"""How long to wait before the next try: twice as long each time, up to a limit, jittered.

The thing to get wrong: without the jitter everybody who was thrown off by an outage comes back at
the same moments.
"""

import random
from typing import Final

_FIRST: Final = 0.5
_LONGEST: Final = 30.0


class Backoff:
    """Of one thing that is tried. Pauses are seconds."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def pause(self) -> float:
        """After a failure: between half and all of a time that doubles."""
        whole = self._next
        self._next = min(whole * 2, self._longest)
        return whole * random.uniform(0.5, 1)  # noqa: S311

    def reset(self) -> None:
        """After a success."""
        self._next = self._first
