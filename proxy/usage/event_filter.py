"""An event stream, changed one event at a time.

Only a complete event can be checked. So an event is held until its blank line has come, and is sent
at that moment; comments between events are not held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import orjson

#: A larger event passes as it is.
MAX_EVENT_BYTES = 1024 * 1024

# Atomic: a CRLF is one end of a line, never two.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
# Blank lines and comments.
_BETWEEN = re.compile(rb"(?:(?::[^\r\n]*+)?+[\r\n])*+")
#: The text of each data line, the space after the colon included: JSON does not mind it. A BOM may
#: stand before the first line of all.
DATA_LINE = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?+|(?<=[\r\n]))data:([^\r\n]*+)")


class EventFilter:
    """A body transform: `feed` each chunk, `end` when the response has ended.

    `change` takes one whole event with its blank line, and returns what goes out for it; `b""`
    takes it out.
    """

    __slots__ = ("_change", "_held", "_passed", "_swallow_lf")

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        # The event that is not complete yet. Of one that passes as it is, because it is too large,
        # only the last bytes: `_passed` of them have gone out, and show where it ends.
        self._held = bytearray()
        self._passed = 0
        # The last event was taken out and ended with a CR: an LF now belongs to it.
        self._swallow_lf = False

    @property
    def at_event_boundary(self) -> bool:
        """Whether an event of the proxy, sent now, would stand alone."""
        return not self._passed

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes that may go out now: often one event, perhaps none. Never raises."""
        if self._swallow_lf and chunk:
            self._swallow_lf = False
            chunk = chunk.removeprefix(b"\n")
        held = self._held
        if held and b"\n" not in chunk and b"\r" not in chunk:
            held += chunk  # nothing can end here: what is held is not searched again
            return self._too_large()
        searched = max(0, len(held) - 2)
        text: bytes | bytearray = chunk
        if held:
            held += chunk
            text = held
        out: list[bytes] = []
        event_end = _first_event_end if b"\r" in text else _first_lf_end
        begin = self._skip_between(text, 0, out)
        while end := event_end(text, max(begin, searched)):
            event = bytes(text[begin:end])
            begin = end
            if self._passed:
                out.append(event[self._passed :])
                self._passed = 0
            elif kept := self._change(event):
                out.append(kept)
            else:
                self._swallow_lf = begin == len(text) and event.endswith(b"\r")
            begin = self._skip_between(text, begin, out)
        if text is held:
            del held[:begin]
        else:
            held += chunk[begin:]
        if large := self._too_large():
            out.append(large)
        return out[0] if len(out) == 1 else b"".join(out)

    def _too_large(self) -> bytes:
        """Return the bytes of an event that is too large to be held, and so passes as it is."""
        held = self._held
        if not self._passed and len(held) <= MAX_EVENT_BYTES:
            return b""
        large = bytes(held[self._passed :])
        del held[:-2]
        self._passed = len(held)
        return large

    def end(self) -> bytes:
        """Return the rest of an event without its blank line, judged as if that had come."""
        rest, self._held = bytes(self._held), bytearray()
        passed, self._passed = self._passed, 0
        return rest[passed:] if passed or not rest else self._change(rest)

    def _skip_between(self, text: bytes | bytearray, begin: int, out: list[bytes]) -> int:
        """Put out the comments and blank lines from `begin` on. Returns where they end."""
        if self._passed or begin == len(text) or text[begin] not in b":\r\n":
            return begin
        between = _BETWEEN.match(text, begin)
        end = between.end() if between else begin
        out.append(bytes(text[begin:end]))
        return end


def _first_event_end(text: bytes | bytearray, start: int) -> int:
    """Return the end of the first blank line from `start` on, or 0."""
    end = _EVENT_END.search(text, start)
    return end.end() if end else 0


def _first_lf_end(text: bytes | bytearray, start: int) -> int:
    """As :func:`_first_event_end`, for text without a CR: five times as fast."""
    at = text.find(b"\n\n", start)
    return at + 2 if at >= 0 else 0


def event_data(text: bytes) -> Any:
    """Return the decoded data of an event; None if it is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    # Python's own reads what some services send: NaN as a log probability, half a surrogate pair.
    try:
        return json.loads(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
