"""Patterns in which ``*`` stands for any run of characters, also for none.

Every other character means itself, and case matters. The thing to get wrong: what is matched comes
from the client, so nothing here may go back over it. Two ends are compared and the pieces between
them are found from left to right; there is no regular expression.
"""

from collections.abc import Iterable


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
