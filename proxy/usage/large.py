"""A large JSON object, validated and parsed a slice at a time.

The text is cut where a value has just ended or a bracket has just opened. A slice with the brackets
that are open where it begins, and those that are open where it ends, is a JSON text of its own. So
the parser of small texts validates every slice. The whole is valid if and only if all slices are.
Strings of many KiB are validated by a pattern, piece by piece, and left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Iterator
from typing import Any

import orjson

from proxy.usage.json_spans import Member

#: Bytes parsed or scanned at once: about a millisecond of brackets.
SLICE = 32 * 1024
# Brackets counted between two steps.
_BRACKETS = 2048
# Stands for the text before a slice. A client cannot write it: it differs in every process.
_NAME_OF_IT = os.urandom(8).hex()
_STANDS_FOR = orjson.dumps(_NAME_OF_IT)
# With a blank, so that the next text cannot extend the value.
_VALUE = b":0 "
_OPENED = {0x5B: b"[", 0x7B: b"{" + _STANDS_FOR + b":"}
_OPENERS = (b"[", b"{")
_CLOSERS = bytes.maketrans(b"[{", b"]}")

_BLANK = b" \t\r\n"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_NAME = re.compile(rb"[\s,]*+(" + _STRING + rb")\s*+:\s*+", re.DOTALL)
_FLAT = re.compile(_STRING + rb'|[^\s,"\[\]{}]++', re.DOTALL)
# Numbers, names and strings; up to a bracket, to the last comma, to the begin of a string.
_PLAIN = rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+"
_RUN = re.compile(_PLAIN, re.DOTALL)
_BRACKET = re.compile(_PLAIN + rb"[\[\]{}]", re.DOTALL)
_COMMA = re.compile(rb'(?:(?:[^"\[\]{},]++|' + _STRING + rb")*+,)++", re.DOTALL)
#: What a string may be made of (RFC 8259 §7), surrogates in pairs only; UTF-8 as RFC 3629 has it.
UNITS = re.compile(
    rb"(?:[ !#-\[\]-\x7f]++|\\[\"\\/bfnrt]"
    rb"|\\u(?:[0-9a-cA-CefEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
    rb"|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2})*+"
)
_BASE64 = re.compile(rb"(?:data:[^,\s\"]{0,128}+,)?+[A-Za-z0-9+/_=-]*+")


class LargeValue:
    """Stands for a value that is too large to be parsed. `text`: the bytes of text in it."""

    __slots__ = ("text",)

    def __init__(self, text: int) -> None:
        self.text = text


class Values(dict[str, Any]):
    """Values by name, with their spans in `members`.

    `brackets` is the number of all brackets, closing ones included.
    """

    __slots__ = ("brackets", "members")

    def __init__(self) -> None:
        super().__init__()
        self.members: list[Member] = []
        self.brackets = 0


class LargeObject:
    """Run all :meth:`steps`, then read :attr:`members` and :attr:`values`."""

    def __init__(
        self,
        text: bytes,
        max_members: int,
        max_brackets: int,
        measure: Callable[[object], int] = lambda value: 0,
    ) -> None:
        """A bracket takes about half a microsecond. `measure` returns the bytes of text in a
        parsed value."""
        self._text = text
        self._max_members = max_members
        self._max_brackets = max_brackets
        self._measure = measure
        #: The top-level values, the last of equal names; large ones as :class:`LargeValue`.
        self.values = Values()
        #: Their spans, in their order, equal names included.
        self.members = self.values.members
        # The brackets open at `_start`, outermost first; and what stands for the text before it.
        self._start = 0
        self._open = bytearray(b"{")
        self._before = b"{"
        # Bytes of text in the member that is read by slices.
        self._size = 0

    def steps(self) -> Iterator[None]:
        """Do about a millisecond of work each. Raises ValueError: no object, too many members."""
        text = self._text
        brace = text.find(b"{", 0, SLICE)
        if brace < 0 or text[:brace].strip(_BLANK):
            raise ValueError("it is no object")
        at = self._start = brace + 1
        while name := _NAME.match(text, at, at + SLICE):
            if len(self.members) == self._max_members:
                raise ValueError("it has too many members")
            self.members.append(Member(name[1], name.start(1), name.end(), 0))
            at = yield from self._value(name.end())
            self.members[-1] = self.members[-1]._replace(end=at)
            if at - self._start > SLICE:
                self._take_members(at)
                yield
        end = text.rfind(b"}", at)
        # What remains here is not a valid name.
        if end < 0 or end - at > SLICE or text[at:end].strip(_BLANK):
            raise ValueError("a name is missing, or too long")
        if len(text) - end > SLICE or text[end + 1 :].strip(_BLANK):
            raise ValueError("something follows it")
        self._take_members(end)

    def _value(self, at: int) -> Generator[None, None, int]:
        """Return the end of the top-level value that begins at `at`."""
        first = self._text[at : at + 1]
        if first in (b"[", b"{"):
            return (yield from self._container(at))
        flat = _FLAT.match(self._text, at, at + SLICE)
        if flat is None and first != b'"':
            raise ValueError("a value is missing")
        if flat is not None and flat.end() < at + SLICE:
            return flat.end()
        if first != b'"':
            raise ValueError("a value is too long")
        self._begin_large(at)
        end = yield from self._string(at)
        self._end_large(end)
        return end

    def _container(self, begin: int) -> Generator[None, None, int]:
        text, at, is_large = self._text, begin, False
        while True:
            bracket = _BRACKET.match(text, at, at + SLICE)
            if bracket is None:
                if not is_large:
                    self._begin_large(begin)
                    is_large = True
                at = yield from self._past_flat(at)
                continue
            at = bracket.end()
            opens = text[at - 1] in b"[{"
            if opens:
                self._open.append(text[at - 1])
            else:
                self._open.pop()
            self.values.brackets += 1
            if self.values.brackets > self._max_brackets:
                raise ValueError("it has too many brackets")
            if len(self._open) == 1:
                break
            if not self.values.brackets % _BRACKETS:
                yield
            if at - self._start > SLICE:
                if not is_large:
                    self._begin_large(begin)
                    is_large = True
                self._cut(at, started=not opens)
                yield
        if is_large:
            self._cut(at, started=True)
            self._end_large(at)
        return at

    def _past_flat(self, at: int) -> Generator[None, None, int]:
        """Pass numbers and strings without a bracket. Returns where to go on."""
        comma = _COMMA.match(self._text, at, at + SLICE)
        if comma is not None and comma.end() - 1 > at:
            end = comma.end() - 1
            if (self._before + self._text[self._start : end]).rstrip(_BLANK).endswith(_OPENERS):
                raise ValueError("a value is missing")  # between a bracket and a comma
            self._cut(end, started=True)
            yield
            return end
        run = _RUN.match(self._text, at, at + SLICE)
        end = at if run is None else run.end()
        if self._text[end : end + 1] == b'"':
            self._cut(end, started=True, last=b'""')
            self._start = yield from self._string(end)
            return self._start
        if end == at or end - self._start > 4 * SLICE:
            raise ValueError("it has no end, or a number or blanks without one")
        return end

    def _string(self, quote: int) -> Generator[None, None, int]:
        """Return the end of the string that begins with the quote at `quote`."""
        text, at, size, coded = self._text, quote + 1, 0, True
        while text[at : at + 1] != b'"':
            units = UNITS.match(text, at, at + SLICE)
            if units is None or units.end() == at:
                raise ValueError("a string is not valid")
            piece = text[at : units.end()]
            coded = coded and _BASE64.fullmatch(piece) is not None
            if b"\\" in piece:
                piece = orjson.loads(b'"%b"' % piece).encode()
            size += len(piece)
            at = units.end()
            yield
        self._size += 0 if coded else size
        return at + 1

    # Slices.

    def _begin_large(self, value: int) -> None:
        """Begin a member whose value, at `value`, is too large to be parsed whole."""
        self._take_members(value, b"0")
        self._before, self._size = b"{" + _STANDS_FOR + b":", 0

    def _end_large(self, end: int) -> None:
        self.values[orjson.loads(self.members[-1].name)] = LargeValue(self._size)
        self._start, self._before = end, b"{" + _STANDS_FOR + _VALUE

    def _take_members(self, end: int, last: bytes = b"") -> None:
        """Parse members up to `end`. `last` replaces the value of the last one."""
        parsed = orjson.loads(self._before + self._text[self._start : end] + last + b"}")
        parsed.pop(_NAME_OF_IT, None)
        self.values.update(parsed)
        self._start, self._before = end, b"{" + _STANDS_FOR + _VALUE

    def _cut(self, end: int, *, started: bool, last: bytes = b"") -> None:
        """Parse a slice of a large value. `started`: a value ended there, no bracket opened."""
        behind = self._open[::-1].translate(_CLOSERS)
        parsed = orjson.loads(self._before + self._text[self._start : end] + last + behind)
        self._size += self._measure(parsed)
        self._start = end
        outer = b"".join([_OPENED[bracket] for bracket in self._open[:-1]])
        inner = bytes(self._open[-1:])
        stands = b"" if not started else b"0 " if inner == b"[" else _STANDS_FOR + _VALUE
        self._before = outer + inner + stands
