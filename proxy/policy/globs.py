"""Patterns in which ``*`` stands for any run of characters, including none.

Every other character means itself, and case matters. The text comes from the client, so matching
never backtracks: the two ends are compared, then the pieces between them are found from left to
right. There is no regular expression.
"""

import re
from collections.abc import Iterable
from typing import Final

#: A run of characters of host names (RFC 1123); possessive, so that it never backtracks.
_HOST_RUN: Final = re.compile(r"[a-z0-9.-]++")


class Globs:
    """Matches what any of ``patterns`` matches; without patterns, nothing."""

    __slots__ = ("_exact", "_pieces", "match_all")

    def __init__(self, patterns: Iterable[str]) -> None:
        given = tuple(patterns)
        #: Whether ``*`` alone is among them.
        self.match_all = any(pattern and not pattern.strip("*") for pattern in given)
        self._exact = frozenset(pattern for pattern in given if "*" not in pattern)
        self._pieces = tuple(pattern.split("*") for pattern in given if "*" in pattern)

    def match(self, text: str) -> bool:
        return text in self._exact or any(_fits(text, pieces) for pieces in self._pieces)


class HostGlobs:
    """As :class:`Globs`, for lower-case origins: ``*`` is one or more characters of host names."""

    __slots__ = ("_exact", "_pieces")

    def __init__(self, patterns: Iterable[str]) -> None:
        given = tuple(patterns)
        self._exact = frozenset(pattern for pattern in given if "*" not in pattern)
        self._pieces = tuple(pattern.split("*") for pattern in given if "*" in pattern)

    def match(self, text: str) -> bool:
        return text in self._exact or any(_fits_host(text, pieces) for pieces in self._pieces)


def _fits_host(text: str, pieces: list[str]) -> bool:
    """Whether ``text`` matches. The first position of each piece is enough.

    A run cannot contain some characters; only a piece itself can match those, so a piece with one
    of them has one position. For any other piece, the first position leaves most to the rest.
    """
    first, *middle, last = pieces
    end = len(text) - len(last)
    if end <= len(first) or not (text.startswith(first) and text.endswith(last)):
        return False
    at = len(first)
    for piece in middle:
        found = text.find(piece, at + 1, end)
        if found < 0 or not _HOST_RUN.fullmatch(text, at, found):
            return False
        at = found + len(piece)
    return _HOST_RUN.fullmatch(text, at, end) is not None


def _fits(text: str, pieces: list[str]) -> bool:
    first, *middle, last = pieces
    end = len(text) - len(last)
    if end < len(first) or not (text.startswith(first) and text.endswith(last)):
        return False
    at = len(first)
    for piece in middle:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
