"""The meter that an answer passes on its way out: `feed` each chunk, `result` at the end.

The one thing a reader would get wrong: this is on the hot path of every stream, and nobody waits
for its result. So a chunk costs a byte search; JSON is parsed only where counts can be; and nothing
that an upstream sends makes `feed` raise: what cannot be read is not metered, and goes on passing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

import orjson

from proxy.usage.body import JsonBody
from proxy.usage.counts import Usage, is_final, read_answer
from proxy.usage.inflate import ENCODINGS, Inflater
from proxy.usage.sse import SseDecoder

UsageSource = Literal["reported", "partial", "estimated", "none"]

# Thousands of chunks say `"usage":null`. The null is looked ahead to, not matched, so that a value
# in the same chunk behind it is found; whatever else follows (a line break too) is worth a parse.
_USAGE = re.compile(rb'"usage"(?!\s*+:\s*+null)')
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")
# The first events that are parsed for the model's name. Some streams begin with events that have
# none (Azure's filter results, `thread.created`), some never tell it (transcripts).
_NAMING_EVENTS = 8
_NAMING_BYTES = 64 * 1024  # a larger first event is a picture


class Reading(NamedTuple):
    """What was read off. `usage` may name the model even without counts; None: not even that.

    `source`: `reported`, the upstream gave its final counts; `partial`, the answer was cut, and
    these are the last counts seen; `estimated` is reserved; `none`, no counts.
    """

    usage: Usage | None
    source: UsageSource


class UsageMeter:
    """Reads the usage of one answer, by its content type: JSON, SSE, or nothing.

    `max_bytes` bounds what is held of it: a larger SSE event is skipped, of a larger JSON body the
    two ends are read (see `body`, which has a lower bound of its own). Compressed answers are
    inflated on the side; in any other encoding than gzip and deflate they are not metered.
    """

    __slots__ = ("_body", "_events", "_inflater", "_take")

    def __init__(
        self, content_type: str, content_encoding: str = "", max_bytes: int = 8 * 1024 * 1024
    ) -> None:
        media_type = content_type.partition(";")[0].strip().lower()
        encoding = content_encoding.strip().lower()
        self._body: JsonBody | None = None
        self._events: _EventStream | None = None
        self._inflater: Inflater | None = None
        # Where a chunk goes; None when metering is off, from the start or after a failure.
        self._take: Callable[[bytes], None] | None = None
        if encoding in ENCODINGS:
            self._inflater = Inflater(encoding)
        elif encoding not in ("", "identity"):
            return
        if media_type == "text/event-stream":
            self._events = _EventStream(max_bytes)
            self._take = self._events.feed
        elif media_type == "application/json" or media_type.endswith("+json"):
            self._body = JsonBody(max_bytes)
            self._take = self._body.feed

    @property
    def at_event_boundary(self) -> bool:
        """Whether an SSE event of ours, written now, would stand alone. Never, when compressed."""
        return (
            self._events is not None
            and self._inflater is None
            and self._take is not None
            and self._events.at_boundary
        )

    def feed(self, chunk: bytes) -> None:
        """See one chunk that has gone out. Never raises."""
        take = self._take
        if take is None:
            return
        try:
            if self._inflater is None:
                take(chunk)
            else:
                for piece in self._inflater.feed(chunk):
                    take(piece)
        except Exception:  # noqa: BLE001  (broken gzip, a bomb, a defect: none may break an answer)
            # Counts seen so far are dropped: what came after them is unknown.
            self._take = None

    def result(self, complete: bool = True) -> Reading:
        """What was seen. `complete`: the upstream ended the answer itself, nothing was cut off."""
        if self._take is None:
            return Reading(self._events.first if self._events else None, "none")
        if self._events is not None:
            return self._events.result(complete)
        usage = self._body.read(complete) if self._body else Usage()
        if not usage.has_counts:
            return Reading(None if usage == Usage() else usage, "none")
        # A JSON body tells its counts once, so they are final even if it was cut behind them.
        return Reading(usage, "reported")


class _EventStream:
    """The usage in an SSE stream: the counts that came last, under the name that came first."""

    __slots__ = ("_decoder", "_final", "_last", "_naming", "first")

    def __init__(self, max_bytes: int) -> None:
        self._decoder = SseDecoder(max_bytes)
        self.first: Usage | None = None  # the first event that named its model
        self._naming = _NAMING_EVENTS  # how many more events may be parsed to find it
        self._last: Usage | None = None  # the last event with counts: cumulative ones replace
        self._final = False  # and whether it was the last word

    @property
    def at_boundary(self) -> bool:
        return self._decoder.at_boundary

    def feed(self, chunk: bytes) -> None:
        decoder = self._decoder
        if not self._naming and (b'"usage"' not in chunk or not _USAGE.search(chunk)):
            # The usual chunk: whole events with nothing in them need no decoding.
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
            # By the standard, an event without its blank line is none. The client may drop it; the
            # upstream has counted it all the same.
            self._decode(b"\n\n")
        if self._last is None:
            return Reading(self.first, "none")
        source: UsageSource = "reported" if complete or self._final else "partial"
        return Reading(self._last.named_by(self.first), source)

    def _decode(self, chunk: bytes) -> None:
        for _, data in self._decoder.feed(chunk):
            counts = b'"usage"' in data and _USAGE.search(data) is not None
            if not counts and not self._naming:
                continue
            if not counts and len(data) > _NAMING_BYTES:
                self._naming -= 1
                continue
            self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            answer: object = orjson.loads(data)
        except orjson.JSONDecodeError:
            return  # "[DONE]", or nothing that could be metered
        usage = read_answer(answer)
        if usage.has_counts:
            self._last = usage
            self._final = is_final(answer)
        if self._naming:
            self._naming -= 1
            # All three from one event: `thread.created` has an id, and it is not the run's.
            if usage.model is not None:
                self.first = usage
                self._naming = 0


def _first_boundary(chunk: bytes) -> int:
    """Where the first event ends whose end is plain to see; behind the chunk if none does.

    An LF after an LF always ends an empty line, whatever came before.
    """
    at = chunk.find(b"\n\n")
    if at >= 0:
        return at + 2
    at = chunk.find(b"\r\n\r\n")
    return at + 4 if at >= 0 else len(chunk)


def _last_boundary(chunk: bytes) -> int:
    """Where the last such event ends; 0 if none does."""
    at = chunk.rfind(b"\n\n")
    if at >= 0:
        return at + 2
    return chunk.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in chunk else 0
