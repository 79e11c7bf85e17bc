"""Patterns in which ``*`` stands for any run of characters, also for none.

Every other character means itself, and case matters. The thing to get wrong: what is matched comes
from the client, so nothing here may go back over it. Two ends are compared and the pieces between
them are found from left to right; there is no regular expression.
"""

import re
from collections.abc import Iterable
from typing import Final

#: A run of characters of host names (RFC 1123); possessive, so that nothing is gone over twice.
_HOST_RUN: Final = re.compile(r"[a-z0-9.-]++")


class Globs:
    """Matches what any of ``patterns`` matches; without patterns nothing."""

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
    """The same for origins in lower case: ``*`` stands for one or more characters of host names."""

    __slots__ = ("_exact", "_pieces")

    def __init__(self, patterns: Iterable[str]) -> None:
        given = tuple(patterns)
        self._exact = frozenset(pattern for pattern in given if "*" not in pattern)
        self._pieces = tuple(pattern.split("*") for pattern in given if "*" in pattern)

    def match(self, text: str) -> bool:
        return text in self._exact or any(_fits_host(text, pieces) for pieces in self._pieces)


def _fits_host(text: str, pieces: list[str]) -> bool:
    """The first place of each piece will do.

    Characters that no run may hold can only be matched by a piece itself, so that a piece with one
    of them has one place; and of the others the first leaves most to the rest.
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
