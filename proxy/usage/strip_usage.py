"""Removes from an event stream what is there only because the proxy injected `include_usage`.

That is, as OpenAI documents it (https://platform.openai.com/docs/api-reference/chat/create,
`stream_options`): one more chunk, with empty `choices` and the `usage`; and `"usage": null`
in every other chunk. Everything else passes byte for byte; counts beside choices too, since many
services send those unasked, and the proxy cannot know whether this one did.
"""

from __future__ import annotations

import orjson

from proxy.usage.event_filter import DATA_LINE, EventFilter, event_data
from proxy.usage.json_spans import top_members

_USAGE = b'"usage"'
_AS_USUAL = b',"usage":null'


class UsageStripper(EventFilter):
    """A body transform: `feed` each chunk, `end` when the response has ended."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(without_usage)


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
    lines = [line.span(1) for line in DATA_LINE.finditer(event)]
    text = b"\n".join([event[start:end] for start, end in lines])
    chunk = event_data(text)
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
