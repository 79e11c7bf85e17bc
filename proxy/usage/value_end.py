"""The end of a JSON value that arrives in pieces: a string, an object or a list of any size.

Brackets are read one by one while the value is short, then counted a block at a time: log
probabilities have one in ten bytes. Nothing of the value is checked.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

# All quantifiers are possessive: this runs over hostile text, and must not backtrack.
_IN_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_TO_BRACKET: Final = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_QUOTE, _OPEN, _CLOSE = 0x22, b"{[", b"}]"
_NO_BRACKETS: Final = bytes(set(range(256)).difference(_OPEN, _CLOSE))
_DEEPER: Final = [1 if byte in _OPEN else -1 for byte in range(256)]
_FEW: Final = 32  # brackets that are read one by one
_BLOCK: Final = 16 * 1024


class ValueEnd:
    """Skips one value after the other; `open` is whether the last one continues."""

    __slots__ = ("_depth", "_escaped", "_quoted")

    def __init__(self) -> None:
        # Open brackets; within a string; behind a backslash in it.
        self._depth = 0
        self._quoted = False
        self._escaped = False

    @property
    def open(self) -> bool:
        """Whether the value has not ended yet."""
        return self._quoted or self._depth > 0

    def skip(self, text: bytes, at: int) -> int:
        """Return the end of the value that begins or continues at `at`, or that of the text.

        It begins with a quote or an opening bracket. Never raises.
        """
        end, depth = len(text), self._depth
        if not depth:
            if self._quoted or text[at] == _QUOTE:
                return self._string_end(text, at if self._quoted else at + 1)
        elif self._quoted:
            at = self._string_end(text, at)
        # What goes on from an earlier piece is long.
        steps = _FEW if self._depth else 0
        while at < end:
            if steps >= _FEW:
                skipped, depth = self._block(text, at, depth)
                steps = 0
                if skipped:
                    at = skipped
                    continue
                steps = -_BLOCK  # the end is near: one by one up to it
            at = _TO_BRACKET.match(text, at).end()  # type: ignore[union-attr]
            if at == end:
                break
            mark = text[at]
            at += 1
            steps += 1
            if mark == _QUOTE:  # a string that goes on behind this text
                at = self._string_end(text, at)
            elif mark in _OPEN:
                depth += 1
            else:
                depth -= 1
                if depth <= 0:
                    break
        self._depth = max(depth, 0)
        return at

    def _block(self, text: bytes, at: int, depth: int) -> tuple[int, int]:
        """Return the end of a block and its depth, or 0 if the value ends within the block."""
        block = text[at : at + _BLOCK].rstrip(b"\\")
        # The quote ends the string in which the block ends, or else is left over.
        outside = _STRING.sub(b"", block + b'"') if b'"' in block else block + b'"'
        marks = outside.translate(None, _NO_BRACKETS)
        if not block or depth + min(accumulate(map(_DEEPER.__getitem__, marks)), default=0) <= 0:
            return 0, depth
        self._quoted = not outside.endswith(b'"')
        depth += sum(map(_DEEPER.__getitem__, marks))
        at += len(block)
        return (self._string_end(text, at) if self._quoted else at), depth

    def _string_end(self, text: bytes, at: int) -> int:
        """Return the end of the string, or that of the text."""
        if self._escaped:
            self._escaped = False
            at += 1
        quote = text.find(b'"', at)
        end = quote if quote >= 0 else len(text)
        if text.find(b"\\", at, end) >= 0:
            end = _IN_STRING.match(text, at).end()  # type: ignore[union-attr]
        self._quoted = end == len(text) or text[end] != _QUOTE
        self._escaped = self._quoted and end < len(text)
        return len(text) if self._quoted else end + 1
