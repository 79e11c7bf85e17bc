"""The spans of the members of a JSON object in its text, so that one can be removed or inserted.

Note: this finds spans, it checks nothing. The text must be known to be one valid JSON object. Then
every span is at its top level and nowhere deeper.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# All quantifiers are possessive: this runs over hostile text, and must not backtrack.
_NAME = re.compile(rb"[\s,]*+(" + _STRING + rb")\s*+:\s*+", re.DOTALL)
_FLAT = re.compile(_STRING + rb'|[^\s,"\[\]{}]++', re.DOTALL)
# Up to the next bracket outside a string: a long text before it is one step, not many.
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]", re.DOTALL)


class Member(NamedTuple):
    """`name` with its quotes, as it is spelled; it starts at `start`, its value is the span."""

    name: bytes
    start: int
    value_start: int
    end: int


def top_members(text: bytes) -> list[Member]:
    """Return the members of the object in `text`, in their order, equal names included."""
    found = []
    at = text.index(b"{") + 1
    while name := _NAME.match(text, at):
        at = _value_end(text, name.end())
        found.append(Member(name[1], name.start(1), name.end(), at))
    return found


def _value_end(text: bytes, start: int) -> int:
    flat = _FLAT.match(text, start)
    if flat is not None:
        return flat.end()
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        end = bracket.end()
        depth += 1 if text[end - 1] in b"[{" else -1
        if depth == 0:
            return end
    return len(text)
