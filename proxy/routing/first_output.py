"""Holding a streamed response back until its first output, so that it can still be rejected.

A status of 200 is no success: providers send the head and start-up events, and then an error. Until
the first event with output, nothing has reached the client, so another target may be tried. What is
held is bounded in events, bytes and time; at a bound the response is committed as it stands.

Events that are no output (start-up):

- chat completions: no `choices`, or only deltas that are empty or name a role
- completions: choices with an empty text
- responses: `response.created`, `.in_progress`, `.queued`, and empty items and parts
- messages: `message_start`, `ping`, `content_block_start` without text
- comments, and events without data
"""

from enum import Enum, auto
from typing import Any, Final

import orjson

from proxy.usage.decompress import ENCODINGS, Inflater
from proxy.usage.sse import SseDecoder, SseEvent

MAX_HELD_EVENTS: Final = 64
MAX_HELD_BYTES: Final = 256 * 1024

_STARTUP_TYPES: Final = frozenset(
    {
        "response.created",
        "response.in_progress",
        "response.queued",
        "message_start",
        "ping",
    }
)
#: Members of a delta that are no output when they have a value.
_NO_OUTPUT: Final = frozenset({"role", "index", "id", "type", "name"})


class FirstOutput:
    """Reads the beginning of an event stream. Feed it each chunk until it is decided."""

    def __init__(self, content_encoding: str = "") -> None:
        """`content_encoding`: of the response. With one that cannot be read, all is output."""
        encoding = content_encoding.strip().lower()
        self._inflater = Inflater(encoding) if encoding in ENCODINGS else None
        self._decoder = SseDecoder(MAX_HELD_BYTES)
        self._events = 0
        self._bytes = 0
        #: Whether the response is to be committed: there is output, or a bound is reached.
        self.committed = encoding not in ("", "identity") and self._inflater is None
        #: The data of the error event that came before any output.
        self.error: bytes | None = None

    @property
    def decided(self) -> bool:
        return self.committed or self.error is not None

    def feed(self, chunk: bytes) -> None:
        """Read one chunk. Never raises."""
        self._bytes += len(chunk)
        try:
            for piece in (chunk,) if self._inflater is None else self._inflater.feed(chunk):
                for event in self._decoder.feed(piece):
                    self._take(event)
                    if self.decided:
                        return
        except ValueError:  # broken compression: the client may see it
            self.committed = True
        if self._bytes > MAX_HELD_BYTES:
            self.committed = True

    def _take(self, event: SseEvent) -> None:
        self._events += 1
        kind = kind_of(event)
        if kind is Kind.ERROR:
            self.error = event.data
        elif kind is Kind.OUTPUT or self._events >= MAX_HELD_EVENTS:
            self.committed = True


class Kind(Enum):
    STARTUP = auto()
    OUTPUT = auto()
    ERROR = auto()


def kind_of(event: SseEvent) -> Kind:
    """Return what an event is. What cannot be read is output: the client may judge it."""
    if event.members is not None:
        return Kind.OUTPUT  # a large event: a start-up event is small
    if not event.data:
        return Kind.STARTUP
    try:
        data = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        return Kind.OUTPUT  # `[DONE]`, for one
    if not isinstance(data, dict):
        return Kind.OUTPUT
    kind = data.get("type")
    if data.get("error") or "error" in (event.name, kind) or kind == "response.failed":
        return Kind.ERROR
    return Kind.OUTPUT if _is_output(data, kind) else Kind.STARTUP


def _is_output(data: dict[str, Any], kind: object) -> bool:
    if isinstance(kind, str):
        if kind in _STARTUP_TYPES:
            return False
        if kind in ("response.output_item.added", "response.content_part.added"):
            return _has_content(data.get("item", data.get("part")))
        if kind == "content_block_start":
            return _has_content(data.get("content_block"))
        return True
    choices = data.get("choices")
    if not isinstance(choices, list):
        return True
    return any(_has_output(choice) for choice in choices)


def _has_output(choice: Any) -> bool:
    if not isinstance(choice, dict):
        return True
    if choice.get("finish_reason") is not None or choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    return any(bool(value) for name, value in delta.items() if name not in _NO_OUTPUT)


def _has_content(item: Any) -> bool:
    if not isinstance(item, dict):
        return True
    return any(bool(item.get(name)) for name in ("text", "content", "arguments", "thinking"))
