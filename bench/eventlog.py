"""The usage events that a contender writes: one line per request, in a file."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Waiting ends when this many seconds have passed without a new line.
_NO_PROGRESS_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1
_PIECE: Final = 1 << 20


@dataclass
class EventLog:
    """A file that only grows. Counting reads what is new since the last time."""

    path: Path
    _offset: int = 0
    _lines: int = 0

    def lines(self) -> int:
        """Whole lines so far."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return 0
        with file:
            file.seek(self._offset)
            while piece := file.read(_PIECE):
                self._offset += len(piece)
                self._lines += piece.count(b"\n")
        return self._lines

    def wait(self, expected: int) -> int:
        """Until there are ``expected`` lines, or no new one comes. Returns how many are missing."""
        found, progress = self.lines(), time.monotonic()
        while found < expected and time.monotonic() - progress < _NO_PROGRESS_SECONDS:
            time.sleep(_LOOK_SECONDS)
            before, found = found, self.lines()
            if found > before:
                progress = time.monotonic()
        return max(0, expected - found)
