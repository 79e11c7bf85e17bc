"""What reads a response body beside its relay: inflates it, and survives whatever is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.runtime.yielding import STEP
from proxy.usage.decompress import Inflater


class BodyReader:
    """A body observer whose `_take` reads the plain bytes of a body, piece by piece.

    A subclass sets both fields. `_take` may replace itself between two pieces. None: nothing more
    is read, from the start or after a failure.
    """

    __slots__ = ("_inflater", "_take")

    _inflater: Inflater | None
    _take: Callable[[bytes], None] | None

    def feed(self, chunk: bytes) -> None:
        """Read one chunk that has gone out. Never raises."""
        take = self._take
        if take is None:
            return
        try:
            if self._inflater is None:
                take(chunk)
            else:
                for piece in self._inflater.feed(chunk):
                    if self._take is not None:  # the first piece may have changed it
                        self._take(piece)
        except Exception:  # noqa: BLE001  (broken gzip, a bomb, a defect: none may break a response)
            # What was read so far is dropped: what comes after it is unknown.
            self._take = None

    def steps(self, chunk: bytes) -> Iterator[None]:
        """As :meth:`feed`, in steps of about a millisecond: for a chunk that is large or inflates.

        The caller may let other greenlets run between two steps.
        """
        try:
            for piece in (chunk,) if self._inflater is None else self._inflater.feed(chunk):
                for start in range(0, len(piece), STEP):
                    if self._take is None:
                        return
                    self._take(piece[start : start + STEP])
                    yield
        except Exception:  # noqa: BLE001  (as above)
            self._take = None
