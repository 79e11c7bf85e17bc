"""The usage in a JSON body that is not held whole.

The one thing a reader would get wrong: the two ends of a body are not searched, they are completed
to valid JSON and parsed. What comes out is proven to stand at the top level; a "usage" inside the
model's text, or in a nested object, never comes out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping

import orjson

from proxy.usage.counts import Usage, read_answer

# Up to here a body is parsed whole: 1 to 8 ms with the hub blocked (measured: 1.4 ms for floats,
# 7 ms for log probabilities). Beyond it, the ends are enough: usage stands behind the long part of
# an answer, or before it.
_WHOLE = 256 * 1024
_END = 64 * 1024  # kept of each end

# A string and the comma before it, if there is one; or a bracket. All quantifiers are possessive:
# this runs over hostile text, and must not go back over it.
_TOKEN = re.compile(rb'(,\s*+)?+"(?:[^"\\]++|\\.)*+("?+)|[\[\]{}]', re.DOTALL)
_MEMBER = re.compile(rb',\s*+("(?:usage|x_groq|model|id|object|created|created_at)"\s*+:)')
_MAX_TRIES = 32  # of places to parse from or up to; more than a few only a hostile body has


class JsonBody:
    """Collects a JSON body chunk by chunk and reads its usage at the end."""

    __slots__ = ("_bytes", "_head", "_max")

    def __init__(self, max_bytes: int) -> None:
        self._max = min(max_bytes, _WHOLE)
        self._bytes = bytearray()  # the body; once `_head` is set, only its tail
        self._head: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        """Keep the chunk, or as much of it as is needed."""
        held = self._bytes
        held += chunk
        if self._head is None and len(held) > self._max:
            # Not all that is held: how much that is depends on how the body was chunked.
            self._head = bytes(held[: min(self._max, _END)])
        # Cut only when twice the size is reached: else each chunk would move the whole tail.
        if self._head is not None and len(held) > 2 * _END:
            del held[:-_END]

    def read(self, complete: bool) -> Usage:
        """The usage found; one without counts when there is none."""
        body = bytes(self._bytes).removeprefix(b"\xef\xbb\xbf")
        if self._head is None:
            whole = _parse(body)
            if whole is not None:
                return read_answer(whole)
            # Cut short, or not quite JSON (a lone surrogate or a NaN in the long part of it).
            head = body[:_END]
        else:
            head = self._head.removeprefix(b"\xef\xbb\xbf")
        # As in the whole body, the last of two equal names counts.
        return read_answer({**first_members(head), **(last_members(body) if complete else {})})


def first_members(head: bytes) -> Mapping[str, object]:
    """The top-level members of an object that are complete in `head`, its first bytes."""
    ends: deque[int] = deque(maxlen=_MAX_TRIES)
    depth = 0
    for token in _TOKEN.finditer(head):
        mark = head[token.start()]
        if mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
            if depth <= 0:
                ends.append(token.start())
                break
            if depth == 1:
                ends.append(token.end())
        else:
            if depth == 1 and token[1]:
                ends.append(token.start())  # after this comma is a name: the last value is whole
            if not token[2]:
                break  # the string goes on behind the cut
    while ends:
        members = _parse(head[: ends.pop()] + b"}")
        if isinstance(members, dict):
            return members
        # Something in it is not quite JSON: then what stands before that.
    return {}


def last_members(tail: bytes) -> Mapping[str, object]:
    """The top-level members at the end of a complete object, of which `tail` is the last bytes.

    A brace before one of them makes the rest an object, if and only if that member stands at the
    top level: from deeper inside, there would be a closing brace too many. And the names searched
    for are never inside a string, where their quotes would be escaped.
    """
    found: dict[str, object] = {}
    tail = tail[-_END:]
    for match in reversed([*_MEMBER.finditer(tail)][-_MAX_TRIES:]):
        members = _parse(b"{" + tail[match.start(1) :])
        if isinstance(members, dict):
            found = members  # it starts further ahead, so it has what the one before had
    return found


def _parse(text: bytes) -> object:
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return parsed
