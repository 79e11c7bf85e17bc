"""The usage in a stream of server-sent events.

Every chunk of every stream passes here. A chunk costs a byte search; JSON is parsed only where it
can have counts.
"""

from __future__ import annotations

import re

import orjson

from proxy.usage.counts import Usage
from proxy.usage.extract import read_response
from proxy.usage.kinds import is_final, is_generation, merge_anthropic_event
from proxy.usage.reading import Reading, source_of
from proxy.usage.skeleton import members_of
from proxy.usage.sse import SseDecoder

# Thousands of chunks have `"usage":null`. A lookahead excludes the null, so that a later value in
# the same chunk is found. Anything else that follows (a line break too) is worth a parse.
USAGE = re.compile(rb'"usage"(?!\s*+:\s*+null)')
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")
# How many of the first events are parsed for the model's name. Some streams begin with events
# without it (Azure's filter results, `thread.created`), some never have it (transcripts).
_NAMING_EVENTS = 8
_NAMING_BYTES = 64 * 1024  # a larger first event is a picture


class EventStream:
    """Reads the usage of an SSE stream: the last counts, under the first name."""

    __slots__ = ("_decoder", "_final", "_generated", "_last", "_message", "_naming", "first")

    def __init__(self, max_bytes: int) -> None:
        self._decoder = SseDecoder(max_bytes)
        self.first: Usage | None = None  # the first event that named its model
        self._naming = _NAMING_EVENTS  # how many more events may be parsed to find it
        self._last: Usage | None = None  # the last event with counts: they are cumulative
        self._final = False  # whether those counts are final
        self._generated = False  # whether any event has generated text
        # The counts of Anthropic's stream so far; later events replace single ones.
        self._message: dict[str, object] | None = None

    @property
    def at_boundary(self) -> bool:
        return self._decoder.at_boundary

    def feed(self, chunk: bytes) -> None:
        decoder = self._decoder
        if not self._naming and (b'"usage"' not in chunk or not USAGE.search(chunk)):
            # The usual chunk: whole events without counts need no decoding.
            begin = 0
            if not decoder.at_boundary:
                begin = _first_boundary(chunk)
            elif chunk.endswith(_BLANK_LINES):
                return
            end = _last_boundary(chunk)
            if begin < end:
                self._decode(chunk[:begin])
                chunk = chunk[end:]
        self._decode(chunk)

    def result(self, complete: bool) -> Reading:
        if complete:
            # By the standard, data without a blank line is no event. The client may drop it; the
            # upstream has counted it all the same.
            self._decode(b"\n\n")
        if self._last is None:
            return Reading(self.first, "none")
        # The counts in Anthropic's first event are never final, however the stream ends.
        final = self._final or (complete and self._message is None)
        source = source_of(self._last, final=final, generated=self._generated)
        return Reading(self._last.named_by(self.first), source)

    def _decode(self, chunk: bytes) -> None:
        for _, data, members in self._decoder.feed(chunk):
            if members is not None:
                self._read(members)
                continue
            counts = b'"usage"' in data and USAGE.search(data) is not None
            if not counts and not self._naming:
                continue
            if not counts and len(data) > _NAMING_BYTES:
                self._naming -= 1
                continue
            event = _parsed(data)
            if event is not None:
                self._read(event)

    def _read(self, event: object) -> None:
        if isinstance(event, dict) and (found := merge_anthropic_event(event, self._message)):
            self._message, event = found
        usage = read_response(event)
        if not self._generated:
            self._generated = is_generation(event)
        if usage.has_counts:
            self._last = usage
            self._final = is_final(event)
        if self._naming:
            self._naming -= 1
            # All three from one event: `thread.created` has an id, and it is not the run's.
            if usage.model is not None:
                self.first = usage
                self._naming = 0


def _parsed(data: bytes) -> object:
    """Return the decoded data of one event, or None for `[DONE]` and data without counts."""
    try:
        parsed: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        return members_of(data) or None
    return parsed


def _first_boundary(chunk: bytes) -> int:
    """Return the end of the first event whose end is certain, or the length of the chunk.

    An LF after an LF always ends an empty line, whatever came before.
    """
    at = chunk.find(b"\n\n")
    if at >= 0:
        return at + 2
    at = chunk.find(b"\r\n\r\n")
    return at + 4 if at >= 0 else len(chunk)


def _last_boundary(chunk: bytes) -> int:
    """Return the end of the last such event, or 0."""
    at = chunk.rfind(b"\n\n")
    if at >= 0:
        return at + 2
    return chunk.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in chunk else 0
