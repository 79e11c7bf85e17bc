"""Removes from an event stream what is there only because the proxy injected `include_usage`.

That is, as OpenAI documents it (https://platform.openai.com/docs/api-reference/chat/create,
`stream_options`): one more chunk, with empty `choices` and the `usage`; and `"usage": null`
in every other chunk. Everything else passes byte for byte; counts beside choices too, since many
services send those unasked, and the proxy cannot know whether this one did.

Only a complete event can be judged. So an event is held until its blank line has come, and goes out
at that moment; comments between events are not held.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from proxy.usage.json_spans import top_members

#: A larger event passes as it is.
MAX_EVENT_BYTES = 1024 * 1024

_USAGE = b'"usage"'
_AS_USUAL = b',"usage":null'
# Atomic: a CRLF is one end of a line, never two.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
# Blank lines and comments.
_BETWEEN = re.compile(rb"(?:(?::[^\r\n]*+)?+[\r\n])*+")
# The text of each data line, the space after the colon included: JSON does not mind it. A BOM may
# stand before the first line of all.
_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?+|(?<=[\r\n]))data:([^\r\n]*+)")


class UsageStripper:
    """A body transform: `feed` each chunk, `end` when the response has ended."""

    __slots__ = ("_held", "_passed", "_swallow_lf")

    def __init__(self) -> None:
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
            elif kept := without_usage(event):
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
        return rest[passed:] if passed else without_usage(rest)

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


def without_usage(event: bytes) -> bytes:
    """Return one event without the injected usage; `b""` if nothing else is in it."""
    if _USAGE not in event:
        return event
    usual = event.find(_AS_USUAL)
    if usual > 0 and _is_null_usage_at(event, usual):
        return event[:usual] + event[usual + len(_AS_USUAL) :]
    return _without_usage_parsed(event)


def _is_null_usage_at(event: bytes, at: int) -> bool:
    """Return whether the only `usage` of the only data line is at `at`; False if not certain.

    A name that the text has once, and that the parsed chunk has at its top level, is the same one,
    unless one of the two is spelled with escapes.
    """
    if not event.startswith(b"data:") or b"\n" in event[:at] or b"\r" in event[:at]:
        return False
    if event.count(_USAGE) != 1 or b"\\u00" in event:
        return False
    try:
        chunk = orjson.loads(event[5:])
    except orjson.JSONDecodeError:
        return False
    return isinstance(chunk, dict) and chunk.get("usage", 0) is None


def _without_usage_parsed(event: bytes) -> bytes:
    lines = [line.span(1) for line in _DATA.finditer(event)]
    text = b"\n".join([event[start:end] for start, end in lines])
    chunk = _parse(text)
    if not isinstance(chunk, dict) or "usage" not in chunk:
        return event
    if chunk["usage"] is not None:
        return b"" if isinstance(chunk["usage"], dict) and chunk.get("choices") == [] else event
    cut = _span_of_usage(text)
    if cut is None:
        return event
    return event[: _place(lines, cut[0])] + event[_place(lines, cut[1]) :]


def _span_of_usage(text: bytes) -> tuple[int, int] | None:
    """Return the span of the member with a comma: the one before it, or behind a first member."""
    members = top_members(text)
    places = [number for number, member in enumerate(members) if member.name == _USAGE]
    if len(places) != 1:
        return None
    number = places[0]
    if number:
        return text.index(b",", members[number - 1].end), members[number].end
    if len(members) > 1:
        return members[0].start, members[1].start
    return members[0].start, members[0].end


def _place(lines: list[tuple[int, int]], at: int) -> int:
    """Return the offset in the event of byte `at` of its data, or of the line that it ends."""
    for start, end in lines:
        if at <= end - start:
            return start + at
        at -= end - start + 1
    raise AssertionError("behind the data")


def _parse(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    # Python's own reads what some services send: NaN as a log probability, half a surrogate pair.
    try:
        return json.loads(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
