"""An incremental decoder of server-sent events.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

Note: chunks are not events. A chunk may end anywhere, inside a CRLF or a UTF-8 character too, and
an event counts only when its blank line has come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from proxy.usage.skeleton import Skeleton

_BOM = b"\xef\xbb\xbf"
_CR, _LF, _COLON = b"\r\n:"


class SseEvent(NamedTuple):
    """One dispatched event. `data` stays bytes, since its reader is a JSON parser.

    `id` and `retry` belong to reconnecting, which a relay does not do; they are not kept. For an
    event that was too large to be held, `data` is empty and `members` has the relevant members.
    """

    name: str
    data: bytes
    members: Mapping[str, object] | None = None


class SseDecoder:
    """Bytes in, events out: `feed` each chunk as it comes.

    At most `max_event_bytes` are held. The data of a larger event is read as JSON while it passes
    (:mod:`proxy.usage.skeleton`). There is no `close`: by the standard, data without a blank line
    after it is not an event.
    """

    __slots__ = (
        "_after_cr",
        "_data",
        "_in_event",
        "_line",
        "_max",
        "_name",
        "_size",
        "_skeleton",
        "_started",
    )

    def __init__(self, max_event_bytes: int = 8 * 1024 * 1024) -> None:
        self._max = max_event_bytes
        # The line and the data so far are bytearrays, because appending to them is amortised
        # constant: an event of 100 kB that comes byte by byte must not be copied 100,000 times.
        self._line = bytearray()
        self._data = bytearray()
        self._name = b""
        self._size = 0  # bytes of the current event, its comments included
        self._in_event = False  # there is a line since the last blank one that is no comment
        self._skeleton: Skeleton | None = None  # reads the current event if it is too large
        self._after_cr = False  # an LF now is the second half of a CRLF
        self._started = False  # the position where a BOM may be has passed

    @property
    def at_boundary(self) -> bool:
        """Whether an event of the proxy, sent now, would stand alone."""
        return not self._line and not self._in_event

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that this chunk completes, often none. Never raises."""
        if not self._started:
            chunk = self._without_bom(chunk)
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if not chunk:
            return []
        events: list[SseEvent] = []
        # bytes.splitlines, unlike str's, splits at CR, LF and CRLF only: exactly the standard.
        lines = chunk.splitlines()
        last = chunk[-1]
        rest = b""
        if last == _CR:
            self._after_cr = True
        elif last != _LF:
            rest = lines.pop()
        if self._line and lines:
            self._line += lines[0]
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            if line:
                self._end_line(line)
            elif self._in_event:
                self._end_event(events)
        if rest:
            self._line += rest
            if self._skeleton is not None or self._size + len(self._line) > self._max:
                self._pass_line()
        return events

    def _end_line(self, line: bytes) -> None:
        self._size += len(line) + 1
        if line[0] == _COLON:
            if not self._in_event:  # between events; many of them must not add up to a large one
                self._size = 0
                self._skeleton = None
                return
        else:
            self._in_event = True
        if self._skeleton is None and self._size > self._max:
            self._begin_skeleton()
        # The colon and one space are cut off; a line without a colon is a field without a value.
        if line.startswith(b"data:"):
            if self._skeleton is not None:  # JSON does not mind the space
                self._skeleton.feed(line[5:])
                self._skeleton.feed(b"\n")
                return
            self._data += line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(_LF)
        elif line == b"data":
            if self._skeleton is None:
                self._data.append(_LF)
        elif line.startswith(b"event:"):
            self._name = line[7:] if line.startswith(b"event: ") else line[6:]
        elif line == b"event":
            self._name = b""

    def _end_event(self, events: list[SseEvent]) -> None:
        name = self._name.decode("utf-8", "replace") if self._name else "message"
        if self._skeleton is not None:
            if self._skeleton.members:
                events.append(SseEvent(name, b"", self._skeleton.members))
        # "data:" alone is an event with empty data; no data line at all is no event.
        elif self._data:
            self._data.pop()
            events.append(SseEvent(name, bytes(self._data)))
        self._data.clear()
        self._name = b""
        self._size = 0
        self._in_event = False
        self._skeleton = None

    def _begin_skeleton(self) -> None:
        self._skeleton = Skeleton()
        self._skeleton.feed(bytes(self._data))
        self._data.clear()

    def _pass_line(self) -> None:
        """Read the data of a line that is not held; only its beginning stays."""
        if self._skeleton is None:
            self._begin_skeleton()
        line = self._line
        if line.startswith(b"data:"):
            if self._skeleton is not None:
                self._skeleton.feed(bytes(line[5:]))
            del line[5:]
        elif len(line) > 5:
            # One byte: enough to know that the line is not blank, and whether it is a comment.
            del line[1:]

    def _without_bom(self, chunk: bytes) -> bytes:
        chunk = bytes(self._line) + chunk
        self._line.clear()
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._line += chunk  # perhaps the beginning of one: wait
            return b""
        self._started = True
        return chunk.removeprefix(_BOM)
