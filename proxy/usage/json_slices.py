"""A large JSON value, decoded a slice at a time, so that other greenlets run in between.

The text must be known to be valid: nothing is checked. A container is cut at the commas between its
items, small items are decoded together, and a large one is cut in its turn. A string is one step,
which is fast at any size that a request may have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.runtime.yielding import turn_if_due

#: Bytes that are decoded at once: about a millisecond where all of them are brackets.
AT_ONCE: Final = 64 * 1024
#: Levels that are cut. Whatever is nested deeper is decoded at once.
_MAX_LEVELS: Final = 8
_MARKS: Final = 512  # between two looks at the clock
_MARK: Final = re.compile(rb'["\[\]{},]')
_NAME: Final = re.compile(rb'\s*+"(?:[^"\\]++|\\.)*+"\s*+:\s*+', re.DOTALL)
_QUOTE, _COMMA, _BACKSLASH = b'",\\'
_BLANK: Final = b" \t\r\n"


def decoded_in_turns(text: bytes, begin: int, end: int, level: int = 0) -> Any:
    """Return the decoded value in `text` from `begin` to `end`, where it has no blanks around it.

    Raises orjson.JSONDecodeError for what that parser does not take, although it is valid.
    """
    first = text[begin : begin + 1]
    if end - begin <= AT_ONCE or level == _MAX_LEVELS or first not in (b"[", b"{"):
        turn_if_due()
        return orjson.loads(memoryview(text)[begin:end])
    if first == b"[":
        items: list[Any] = []
        for start, stop in _batches(text, begin + 1, end - 1):
            if stop - start <= AT_ONCE:
                turn_if_due()
                items += orjson.loads(b"[" + text[start:stop] + b"]")
            else:
                items.append(_large(text, start, stop, level))
        return items
    members: dict[str, Any] = {}
    for start, stop in _batches(text, begin + 1, end - 1):
        name = _NAME.match(text, start, stop)
        if stop - start <= AT_ONCE or name is None:
            turn_if_due()
            members.update(orjson.loads(b"{" + text[start:stop] + b"}"))
        else:
            (key,) = orjson.loads(b"{" + text[start : name.end()] + b"0}")
            members[key] = _large(text, name.end(), stop, level)
    return members


def _large(text: bytes, start: int, stop: int, level: int) -> Any:
    while text[start] in _BLANK:
        start += 1
    while text[stop - 1] in _BLANK:
        stop -= 1
    return decoded_in_turns(text, start, stop, level + 1)


def _batches(text: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of several small items each, or of one large item."""
    start = last = begin
    for stop in _item_ends(text, begin, end):
        if stop - start > AT_ONCE and last > start:
            yield start, last - 1
            start = last
        if stop - start > AT_ONCE:
            yield start, stop
            start = stop + 1
        last = stop + 1
    if start < end:
        yield start, end


def _item_ends(text: bytes, at: int, end: int) -> Iterator[int]:
    """Yield where each item ends: the places of the commas, and `end`."""
    depth = marks = 0
    while mark := _MARK.search(text, at, end):
        marks += 1
        if not marks % _MARKS:
            turn_if_due()
        at = mark.end()
        byte = text[at - 1]
        if byte == _QUOTE:
            at = _string_end(text, at)
        elif byte == _COMMA:
            if not depth:
                yield at - 1
        else:
            depth += 1 if byte in b"[{" else -1
    yield end


def _string_end(text: bytes, at: int) -> int:
    """Return the end of the string whose first character is at `at`."""
    while True:
        quote = text.index(b'"', at)
        before = quote
        while text[before - 1] == _BACKSLASH and before > at:
            before -= 1
        at = quote + 1
        if not (quote - before) % 2:
            return at
