"""The shape of a body: what two answers of a live model share although their words differ.

JSON is reduced to keys and types, an event stream to the sequence of its kinds of events, runs of
one kind counting once. Not a parser of usage: nothing here looks at what a value means.
"""

import zlib
from collections.abc import Iterable
from typing import Any, Final

import orjson

#: A body that grows beyond this when decompressed is compared as it is.
_LARGEST: Final = 64 * 1024 * 1024
_WINDOWS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def decoded(body: bytes, encoding: str) -> bytes | None:
    """``body`` without its ``Content-Encoding``; None when it cannot be undone here."""
    coding = encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOWS:
        return None
    decoder = zlib.decompressobj(_WINDOWS[coding])
    try:
        plain = decoder.decompress(body, _LARGEST)
    except zlib.error:
        return None
    return plain if decoder.eof else None


def body_shape(body: bytes, content_type: str) -> str | None:
    """Equal for answers that differ in their words only; None for what is neither JSON nor SSE."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return stream_shape(body)
    try:
        return json_shape(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def json_shape(value: Any) -> str:
    """Keys in their order, types of values, each kind of item of a list once per run."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {json_shape(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_runs(json_shape(item) for item in value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "string"


def stream_shape(body: bytes) -> str:
    """A line per run of equal events. Comments do not count: they are sent by the clock."""
    newline = b"\r\n" if b"\r\n" in body else b"\n"
    *events, rest = body.split(newline * 2)
    shapes = [shape for event in events if (shape := _event_shape(event, newline))]
    if rest.strip():
        shapes.append(f"unfinished {_event_shape(rest, newline)}")
    return "\n".join([f"lines end with {newline!r}", *_runs(shapes)])


def _event_shape(event: bytes, newline: bytes) -> str:
    lines = [line for line in event.split(newline) if not line.startswith(b":")]
    return " | ".join(_line_shape(line) for line in lines if line)


def _line_shape(line: bytes) -> str:
    name, colon, value = line.partition(b":")
    field = f"{name.decode('utf-8', 'replace')}{colon.decode()}"
    if name != b"data":
        # Ids and retry times are values like any other; the event's name is its kind.
        return f"{field}{value.decode('utf-8', 'replace')}" if name == b"event" else field
    space = " " if value.startswith(b" ") else ""
    try:
        return f"{field}{space}{json_shape(orjson.loads(value))}"
    except orjson.JSONDecodeError:
        return f"{field}{value.decode()}" if value.strip() == b"[DONE]" else f"{field}{space}text"


def _runs(items: Iterable[str]) -> list[str]:
    """``a a b a`` → ``a b a``."""
    kept: list[str] = []
    for item in items:
        if not kept or kept[-1] != item:
            kept.append(item)
    return kept
