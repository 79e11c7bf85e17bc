"""The members of a JSON text that matter for usage, collected while the text passes.

For texts that are too large to be held, and for those that a strict parser refuses: half a
surrogate pair, NaN, a raw control character, a thousand levels (RFC 8259 allows the first and the
last). Only members at known places are kept, so a "usage" inside the model's text, in tool
arguments or in any other object is never read. Nothing else of the text is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from proxy.usage.value_end import ValueEnd

#: What to keep. None: the whole value. A dict: the members of an object, name → shape. A list of
#: one shape: a list of such objects.
Shape = dict[bytes, Any]

_NAMED: Final = (b"id", b"model", b"object", b"type", b"created", b"created_at", b"status")
_RESPONSE: Final[Shape] = {
    **dict.fromkeys((*_NAMED, b"usage", b"x_groq", b"service_tier")),
    b"choices": [dict.fromkeys((b"finish_reason", b"usage"))],
    b"delta": {b"stop_reason": None},
}
_TRANSCRIPTION: Final[Shape] = {b"model": None}
_SESSION: Final[Shape] = {
    b"model": None,
    b"input_audio_transcription": _TRANSCRIPTION,
    b"audio": {b"input": {b"transcription": _TRANSCRIPTION}},
}
_DOCUMENT: Final[Shape] = {
    **_RESPONSE,
    b"response": _RESPONSE,
    b"message": _RESPONSE,
    b"session": _SESSION,
}

_MAX_NAME: Final = 1024
_MAX_VALUE: Final = 64 * 1024  # bytes of a value that is kept
_MAX_ITEMS: Final = 128
_MAX_MEMBERS: Final = 4096  # and items, among those that are read one by one

# All quantifiers are possessive: this runs over hostile text, and must not backtrack. All
# but the name also match the empty text, so there is always a match.
_BEFORE: Final = re.compile(rb"[\s\xef\xbb\xbf]*+")
_BETWEEN: Final = re.compile(rb"[\s,]*+")
_NAME: Final = re.compile(rb'"((?:[^"\\]++|\\.)*+)"\s*+:\s*+', re.DOTALL)
_IN_LITERAL: Final = re.compile(rb"[-+.\w]*+")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_QUOTE, _OPEN, _CLOSE, _BEGIN = 0x22, b"{[", b"}]", b'{["'


class Skeleton:
    """Reads a text: `feed` pieces of any size; `members` has what is complete so far."""

    __slots__ = (
        "_carried",
        "_kept",
        "_name",
        "_open",
        "_passing",
        "_seen",
        "_shape",
        "_step",
        "members",
    )

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        # Reads on from an offset in the text and returns where it stopped.
        self._step: Callable[[bytes, int], int] = self._begin
        # The beginning of a name that is not complete.
        self._carried = b""
        # The open objects and lists, the innermost last, and what is kept of each.
        self._open: list[tuple[Any, Any]] = []
        self._seen = 0
        # The member that is read: its name, its shape, and its text if that is kept.
        self._name = ""
        self._shape: Any = _SKIPPED
        self._kept: bytearray | None = None
        self._passing = ValueEnd()

    def feed(self, text: bytes) -> None:
        """Read on. Never raises."""
        if self._carried:
            text, self._carried = self._carried + text, b""
        at, end = 0, len(text)
        while at < end:
            at = self._step(text, at)

    def _begin(self, text: bytes, at: int) -> int:
        at = _BEFORE.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text):
            return at
        if text[at] != _OPEN[0]:
            return self._give_up(text, at)
        self._open.append((_DOCUMENT, self.members))
        self._step = self._between
        return at + 1

    def _between(self, text: bytes, at: int) -> int:
        """Read the beginning of the next member of an object or list of which members are kept."""
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text):
            return at
        shape, found = self._open[-1]
        if text[at] in _CLOSE:
            self._open.pop()
            return at + 1 if self._open else self._give_up(text, at)
        if self._seen > _MAX_MEMBERS:
            return self._give_up(text, at)
        if type(found) is list:
            self._seen += 1
            self._shape = shape
            self._step = self._value
            return at
        name = _NAME.match(text, at)
        if name is None:
            if text[at] != _QUOTE or len(text) - at > _MAX_NAME:
                return self._give_up(text, at)
            self._carried = text[at:]
            return len(text)
        self._seen += 1
        self._name = _unescaped(name[1])
        self._shape = shape.get(self._name.encode("utf-8", "replace"), _SKIPPED)
        self._step = self._value
        return name.end()

    def _value(self, text: bytes, at: int) -> int:
        """Read the beginning of a value, with the space before it."""
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        if at == len(text):
            return at
        mark, shape = text[at], self._shape
        if (mark == _OPEN[0] and type(shape) is dict) or (mark == _OPEN[1] and type(shape) is list):
            inner: Any = {} if mark == _OPEN[0] else []
            self._attach(inner)
            self._open.append((shape if mark == _OPEN[0] else shape[0], inner))
            self._step = self._between
            return at + 1
        self._kept = bytearray() if shape is None else None
        if mark in _BEGIN:
            self._step = self._within
            return at
        if _IN_LITERAL.match(text, at).end() == at:  # type: ignore[union-attr]
            return self._give_up(text, at)
        self._step = self._literal
        return at

    def _literal(self, text: bytes, at: int) -> int:
        end = _IN_LITERAL.match(text, at).end()  # type: ignore[union-attr]
        self._append(text, at, end)
        if end < len(text):
            self._finish()
        return end

    def _within(self, text: bytes, at: int) -> int:
        """Read on in a string, object or list that is kept or skipped as a whole."""
        end = self._passing.skip(text, at)
        self._append(text, at, end)
        if not self._passing.open:
            self._finish()
        return end

    def _append(self, text: bytes, begin: int, end: int) -> None:
        kept = self._kept
        if kept is not None:
            if len(kept) + end - begin > _MAX_VALUE:
                self._kept = None
            else:
                kept += text[begin:end]

    def _finish(self) -> None:
        """End the value."""
        kept, self._kept = self._kept, None
        if kept is not None:
            self._attach(_decoded(bytes(kept)))
        self._step = self._between

    def _attach(self, value: object) -> None:
        found = self._open[-1][1]
        if type(found) is dict:
            found[self._name] = value  # of two equal names the last counts, as for every parser
        elif len(found) < _MAX_ITEMS:
            found.append(value)

    def _give_up(self, text: bytes, _: int) -> int:
        """Ignore the rest, which belongs to no object or is not JSON."""
        self._step = self._give_up
        return len(text)


_SKIPPED: Final = object()


def members_of(text: bytes) -> dict[str, Any]:
    """Return the known members of a text, which may be cut short."""
    skeleton = Skeleton()
    skeleton.feed(text)
    return skeleton.members


def _unescaped(name: bytes) -> str:
    text = _decoded(b'"' + name + b'"') if b"\\" in name else None
    return text if isinstance(text, str) else name.decode("utf-8", "replace")


def _decoded(text: bytes) -> object:
    """Decode one value, or return None. The result can be written as JSON again."""
    try:
        found: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    else:
        return found
    whole = _SURROGATE.sub(rb"\\ufffd", text).decode("utf-8", "replace")
    try:
        return json.loads(whole, strict=False)
    except (ValueError, RecursionError):
        return None
