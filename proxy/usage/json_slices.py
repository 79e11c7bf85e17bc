"""A large JSON value, decoded a slice at a time, so that other greenlets run in between.

The text must be known to be valid: nothing is checked. A container is cut at the commas between its
items, small items are decoded together, and a large one is cut in its turn. A string is one step,
unless long ones are to stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.runtime.yielding import turn_if_due
from proxy.usage.json_text import LargeDict, LargeList, LongString

#: Bytes that are decoded at once: about a millisecond where all of them are brackets.
AT_ONCE: Final = 64 * 1024
#: Levels that are cut. Whatever is nested deeper is decoded at once, up to this size.
_MAX_LEVELS: Final = 8
MAX_NESTED_BYTES: Final = 1024 * 1024
MAX_NAME_BYTES: Final = 64 * 1024
# Brackets or commas between two looks at the clock, and bytes that a pattern reads at once.
_MARKS: Final = 256
_WINDOW: Final = 64 * 1024
# Bytes in which a byte is searched at once.
_SEARCHED: Final = 1024 * 1024
# All quantifiers are possessive: this runs over hostile text, and must not backtrack.
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN: Final = rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+"
_RUN: Final = re.compile(_PLAIN, re.DOTALL)
_TO_BRACKET: Final = re.compile(_PLAIN + rb"[\[\]{}]", re.DOTALL)
_TO_MARK: Final = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+[\[\]{},]", re.DOTALL)
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_NAME: Final = re.compile(rb"\s*+" + _STRING + rb"\s*+:\s*+", re.DOTALL)
_QUOTE, _COMMA = b'",'
_BLANK: Final = b" \t\r\n"


def decoded_in_turns(
    text: bytes, begin: int, end: int, level: int = 0, *, long_strings: bool = False
) -> Any:
    """Return the decoded value in `text` from `begin` to `end`, where it has no blanks around it.

    Lists and objects of more than :data:`AT_ONCE` bytes are a :class:`LargeList` and a
    :class:`LargeDict`. With `long_strings`, strings of as many are a :class:`LongString`.

    Raises orjson.JSONDecodeError for what that parser does not take, although it is valid, and
    ValueError for what is large and nested too deep, and for a name as long.
    """
    if end - begin > AT_ONCE:
        first = text[begin : begin + 1]
        if first == b'"' and long_strings:
            return LongString(text, begin + 1, end - 1)
        if first in (b"[", b"{"):
            if level < _MAX_LEVELS:
                cut = _list if first == b"[" else _object
                return cut(text, begin + 1, end - 1, level, long_strings)
            if end - begin > MAX_NESTED_BYTES:
                raise ValueError(
                    f"a value of many MiB is nested more than {_MAX_LEVELS} levels deep"
                )
    turn_if_due()
    return orjson.loads(memoryview(text)[begin:end])


def _list(text: bytes, begin: int, end: int, level: int, long_strings: bool) -> LargeList:
    items = LargeList()
    for start, stop in _batches(text, begin, end):
        if stop - start <= AT_ONCE:
            turn_if_due()
            items += orjson.loads(b"[" + text[start:stop] + b"]")
        else:
            items.append(_large(text, start, stop, level, long_strings))
    return items


def _object(text: bytes, begin: int, end: int, level: int, long_strings: bool) -> LargeDict:
    members = LargeDict()
    for start, stop in _batches(text, begin, end):
        name = _NAME.match(text, start, stop)
        if stop - start <= AT_ONCE or name is None:
            turn_if_due()
            members.update(orjson.loads(b"{" + text[start:stop] + b"}"))
        else:
            if name.end() - start > MAX_NAME_BYTES:
                raise ValueError("a name is too long")
            (key,) = orjson.loads(b"{" + text[start : name.end()] + b"0}")
            members[key] = _large(text, name.end(), stop, level, long_strings)
    return members


def _large(text: bytes, start: int, stop: int, level: int, long_strings: bool) -> Any:
    while text[start] in _BLANK:
        start += 1
    while text[stop - 1] in _BLANK:
        stop -= 1
    return decoded_in_turns(text, start, stop, level + 1, long_strings=long_strings)


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
    looked = at
    while at < end:
        marks += 1
        if not marks % _MARKS or at - looked > _WINDOW:
            turn_if_due()
            looked = at
        pattern = _TO_BRACKET if depth else _TO_MARK
        found = pattern.match(text, at, min(end, at + _WINDOW))
        if found is None:
            at = _past_long(text, at, end)
            continue
        at = found.end()
        byte = text[at - 1]
        if byte != _COMMA:
            depth += 1 if byte in b"[{" else -1
        elif not depth:
            yield at - 1
    yield end


def _past_long(text: bytes, at: int, end: int) -> int:
    """Pass a long string, or a long run of other values, which has no bracket."""
    run = _RUN.match(text, at, min(end, at + _WINDOW)) if text[at] != _QUOTE else None
    at = at if run is None else run.end()
    if at == end or text[at] != _QUOTE:
        return at
    at += 1
    while text[at] != _QUOTE:
        turn_if_due()
        quote = text.find(b'"', at, at + _SEARCHED)
        plain = at + _SEARCHED if quote < 0 else quote
        if text.find(b"\\", at, plain) < 0:
            at = plain
        else:
            at = _IN_STRING.match(text, at, at + _WINDOW).end()  # type: ignore[union-attr]
    return at + 1
