"""JSON values that stay text: they are copied from one document into another, or read by pieces.

To decode a string of many MiB is one step of the parser, and so is to write it again. Either holds
the event loop for tens of milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeGuard

import orjson

from proxy.runtime.yielding import joined, turn_if_due
from proxy.usage.large import SLICE, UNITS

#: Bytes that are copied at once.
_COPIED_AT_ONCE: Final = 1024 * 1024
#: One character of a string, however it is written.
_CHARACTER: Final = re.compile(
    rb"\\u[dD][89abAB]..\\u....|\\u....|\\.|[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]+", re.DOTALL
)


class LargeList(list[Any]):
    """A list whose text is large."""


class LargeDict(dict[str, Any]):
    """An object whose text is large."""


class JSONText:
    """A value as its text."""

    __slots__ = ("_begin", "_end", "_text")

    def __init__(self, text: bytes, begin: int = 0, end: int | None = None) -> None:
        """The value stands in `text` from `begin` to `end`. It must be known to be valid."""
        self._text = text
        self._begin = begin
        self._end = len(text) if end is None else end

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._end - self._begin} bytes)"

    def copied(self) -> Iterator[bytes]:
        """Yield the text in pieces, which may end anywhere. Lets other greenlets run."""
        for at in range(self._begin, self._end, _COPIED_AT_ONCE):
            turn_if_due()
            yield self._text[at : min(at + _COPIED_AT_ONCE, self._end)]


class LongString(JSONText):
    """A string, whose span is without the quotes. Each reading lets other greenlets run."""

    __slots__ = ("_head",)

    def __init__(self, text: bytes, begin: int = 0, end: int | None = None) -> None:
        super().__init__(text, begin, end)
        self._head: str | None = None

    @classmethod
    def of(cls, pieces: Iterable[str]) -> LongString:
        """Return the string that these pieces are together."""
        encoded = []
        for piece in pieces:
            turn_if_due()
            encoded.append(orjson.dumps(piece)[1:-1])
        return cls(joined(encoded))

    def copied(self) -> Iterator[bytes]:
        yield b'"'
        yield from super().copied()
        yield b'"'

    def decoded(self) -> Iterator[str]:
        """Yield the string in pieces of some KiB, none of them empty."""
        at = self._begin
        while at < self._end:
            turn_if_due()
            found = UNITS.match(self._text, at, min(at + SLICE, self._end))
            end = at if found is None else found.end()
            if end == at:
                raise ValueError("a string is not valid")
            yield orjson.loads(b'"%b"' % self._text[at:end])
            at = end

    @property
    def head(self) -> str:
        """The first piece."""
        if self._head is None:
            self._head = next(self.decoded(), "")
        return self._head

    def behind(self, characters: int) -> LongString:
        """Return what follows so many characters of the head."""
        at = self._begin
        for _ in range(characters):
            found = _CHARACTER.match(self._text, at, self._end)
            at = self._end if found is None else found.end()
        return LongString(self._text, at, self._end)

    def is_blank(self) -> bool:
        """Whether there is nothing but blanks in it."""
        return not any(piece.strip() for piece in self.decoded())

    def is_written_with(self, *words: bytes) -> bool:
        """Whether one of these is in its text."""
        longest = max(map(len, words))
        for at in range(self._begin, self._end, _COPIED_AT_ONCE):
            turn_if_due()
            end = min(at + _COPIED_AT_ONCE + longest - 1, self._end)
            if any(self._text.find(word, at, end) >= 0 for word in words):
                return True
        return False


#: A string, which stays as it is written if it is of many KiB.
Text = str | LongString


def is_text(value: Any) -> TypeGuard[Text]:
    """Whether a decoded value is a string, of whatever length."""
    return isinstance(value, str | LongString)


#: Items that are encoded at once. Each is small, or is large and stands alone.
_BATCH: Final = 16


def encoded_in_turns(value: Any) -> list[bytes]:
    """Return the JSON text of a value in pieces. Lets other greenlets run.

    :class:`JSONText` in it is copied. What is a :class:`LargeList` or a :class:`LargeDict` is
    encoded item by item; all else at once. Raises TypeError for what cannot be written.
    """
    pieces: list[bytes] = []
    _encode(value, pieces)
    return pieces


def _encode(value: Any, pieces: list[bytes]) -> None:
    if isinstance(value, JSONText):
        pieces.extend(value.copied())
        return
    is_object = isinstance(value, dict)
    if not is_object and not isinstance(value, list):
        pieces.append(orjson.dumps(value))
        return
    if type(value) in (dict, list) and (text := _at_once(value)) is not None:
        pieces.append(text)
        return
    items = list(value.items() if is_object else value)
    pieces.append(b"{" if is_object else b"[")
    for start in range(0, len(items), _BATCH):
        turn_if_due()
        if start:
            pieces.append(b",")
        batch = items[start : start + _BATCH]
        text = _at_once(dict(batch) if is_object else batch)
        if text is not None:
            pieces.append(text[1:-1])
            continue
        for number, item in enumerate(batch):
            if number:
                pieces.append(b",")
            if is_object:
                pieces.append(orjson.dumps(item[0]) + b":")
                item = item[1]
            _encode(item, pieces)
    pieces.append(b"}" if is_object else b"]")


def _at_once(value: Any) -> bytes | None:
    """Return the text of a value; None: something large is in it."""
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError:
        return None
