"""Transforms of response bodies for several dialects. Bytes that need no change pass as sent."""

from collections.abc import Callable
from typing import Any, Final

import orjson

from proxy.core.media_type import is_event_stream, is_json
from proxy.providers.base import BodyTransform, HeaderList, ResponseTransform
from proxy.usage.event_filter import DATA_LINE, EventFilter, event_data

#: A larger body passes as it is: to read it at once would hold the event loop.
MAX_WHOLE_BYTES: Final = 2 * 1024 * 1024
#: Lines that no longer hold for a body that was changed.
_OF_THE_BYTES: Final = frozenset(
    {"content-length", "etag", "content-md5", "digest", "content-digest", "repr-digest"}
)


class WholeBody:
    """A body that is held until its end, and then changed."""

    __slots__ = ("_change", "_held")

    #: No event of the proxy can stand in it.
    at_event_boundary = False

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self._change = change
        self._held: bytearray | None = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        """Return nothing, unless the body turns out to be too large."""
        if self._held is None:
            return chunk
        self._held += chunk
        if len(self._held) <= MAX_WHOLE_BYTES:
            return b""
        passed, self._held = bytes(self._held), None
        return passed

    def end(self) -> bytes:
        """Return the changed body."""
        held, self._held = self._held, None
        return self._change(bytes(held)) if held else b""


def chunks_changed(change: Callable[[Any], bytes | None]) -> EventFilter:
    """Return a transform of an event stream. `change` takes the decoded data of one event.

    It returns the new data, or None where the event stays as it is.
    """

    def changed(event: bytes) -> bytes:
        lines = [line.span(1) for line in DATA_LINE.finditer(event)]
        text = b"\n".join([event[start:end] for start, end in lines]) or event
        data = change(event_data(text))
        if data is None:
            return event
        if not lines:  # a line of JSON where an event should be
            return b"data: " + data + b"\n\n"
        return event[: lines[0][0]] + b" " + data + event[lines[-1][1] :]

    return EventFilter(changed)


def transformed(headers: HeaderList, body: BodyTransform) -> ResponseTransform:
    """Return the transform of a response, without the lines that no longer hold."""
    return ResponseTransform(
        [line for line in headers if line[0].lower() not in _OF_THE_BYTES], body
    )


def header(headers: HeaderList, name: str) -> str:
    """Return the first value of a header, whose name is given in lower case; empty if absent."""
    return next((value for each, value in headers if each.lower() == name), "")


def kind_of(headers: HeaderList) -> str:
    """Return `json` or `events`; empty for a body that cannot be changed, or is compressed."""
    if header(headers, "content-encoding").strip().lower() not in ("", "identity"):
        return ""
    content_type = header(headers, "content-type")
    if is_event_stream(content_type):
        return "events"
    return "json" if is_json(content_type) else ""


class ToolCalls:
    """Repairs the tool calls of one chat response.

    1. In a stream, calls are numbered by their id, where the index is missing or another call's.
    2. A choice that ends with `stop` after tool calls ends with `tool_calls`.

    All other members stay, known or not.
    """

    def __init__(self) -> None:
        self._choices: dict[Any, _Choice] = {}

    def repair(self, chunk: dict[str, Any]) -> bool:
        """Repair a chunk, or a whole response, in place. Returns whether anything was changed."""
        changed = False
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                continue
            state = self._choices.setdefault(str(choice.get("index", 0)), _Choice())
            for call in _calls(choice.get("delta")):
                index = state.number(call)
                if call.get("index") != index:
                    call["index"] = index
                    changed = True
            if _calls(choice.get("message")):
                state.used.add(0)
            if state.used and choice.get("finish_reason") == "stop":
                choice["finish_reason"] = "tool_calls"
                changed = True
        return changed


class _Choice:
    """The tool calls of one choice so far."""

    def __init__(self) -> None:
        self.used: set[int] = set()
        self._by_id: dict[str, int] = {}
        #: Numbers of calls whose id has come. It may come behind other pieces.
        self._with_id: set[int] = set()
        #: The upstream's number → the number of the call that had it last.
        self._by_given: dict[int, int] = {}
        self._last = 0

    def number(self, call: dict[str, Any]) -> int:
        """Return the number of the call that this piece belongs to."""
        call_id, given, function = call.get("id"), call.get("index"), call.get("function")
        named = isinstance(function, dict) and bool(function.get("name"))
        given = given if isinstance(given, int) else None
        if call_id and isinstance(call_id, str):
            index = self._by_id.get(call_id)
            if index is None:
                index = self._by_given.get(given) if given is not None else None
                if index is None or index in self._with_id:
                    index = self._new(given)
                self._by_id[call_id] = index
                self._with_id.add(index)
        elif given is not None and given in self._by_given:
            index = self._by_given[given]
        elif given is None and self.used and not named:
            index = self._last
        else:
            index = self._new(given)
        if given is not None:
            self._by_given[given] = index
        self._last = index
        return index

    def _new(self, given: int | None) -> int:
        index = given
        if index is None or index in self.used:
            index = max(self.used, default=-1) + 1
        self.used.add(index)
        return index


def _calls(message: Any) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return [each for each in calls if isinstance(each, dict)] if isinstance(calls, list) else []


def json_changed(text: bytes, change: Callable[[Any], bytes | None]) -> bytes:
    """Return a JSON text changed as `change` says, which takes it decoded; None keeps it."""
    try:
        decoded = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    changed = change(decoded)
    return text if changed is None else changed
