"""A few pieces of a text replaced, all other bytes kept. A large text is copied in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxy.runtime.yielding import joined, turn_if_due

# Copying more takes several milliseconds.
_COPIED_AT_ONCE = 1024 * 1024


class Splice(NamedTuple):
    """The bytes from `start` to `end` become `put`."""

    start: int
    end: int
    put: bytes


def spliced(text: bytes, splices: Sequence[Splice]) -> bytes:
    """Return `text` with all `splices`, which are in order and do not overlap.

    Lets other greenlets run if the text is large.
    """
    if not splices:
        return text
    if len(text) <= _COPIED_AT_ONCE:
        return b"".join(_pieces(text, splices))
    return joined(list(_in_turns(text, splices)))


def _pieces(text: bytes, splices: Sequence[Splice]) -> Iterator[bytes]:
    at = 0
    for start, end, put in splices:
        yield text[at:start]
        yield put
        at = end
    yield text[at:]


def _in_turns(text: bytes, splices: Sequence[Splice]) -> Iterator[bytes]:
    at = 0
    for start, end, put in (*splices, Splice(len(text), len(text), b"")):
        while at < start:
            yield text[at : min(at + _COPIED_AT_ONCE, start)]
            at = min(at + _COPIED_AT_ONCE, start)
            turn_if_due()
        yield put
        at = end
