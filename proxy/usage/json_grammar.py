"""JSON objects by the grammar alone (RFC 8259), for valid bodies that the parser refuses.

Such a body has half a surrogate pair (RFC 8259 §8.2: a client cut its text within an emoji), a
number beyond a double, or more levels than the parser supports. The upstream decides whether it
accepts such a body.
"""

from __future__ import annotations

import json
import re
from typing import Final

from proxy.runtime.yielding import turn_if_due
from proxy.usage.json_spans import Member

#: The event loop gets a turn after this many. All `_MAX_TOKENS` take about 40 ms.
_TOKENS_PER_TURN: Final = 512
_MAX_TOKENS: Final = 32 * 1024
_TOKEN: Final = re.compile(
    rb"[ \t\r\n]*+(?:"
    rb'(?P<string>"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+")'
    rb"|(?P<flat>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][-+]?[0-9]++)?+|true|false|null)"
    rb"|(?P<mark>[\[\]{},:]))"
)
_BLANKS: Final = re.compile(rb"[ \t\r\n]*+")
_SPACE: Final = b" \t\r\n"
_OPENED: Final = {b"}": 0x7B, b"]": 0x5B}
_INSIDE: Final = {b"{": "first name", b"[": "first value"}
#: (what is expected, what comes) → what is expected next, or one of three actions.
_STEPS: Final = {
    **{
        (expected, comes): step
        for expected in ("value", "first value")
        for comes, step in (
            (b"string", "end"),
            (b"flat", "end"),
            (b"{", "open"),
            (b"[", "open"),
        )
    },
    ("first value", b"]"): "close",
    ("first name", b"string"): "colon",
    ("first name", b"}"): "close",
    ("name", b"string"): "colon",
    ("colon", b":"): "value",
    ("end", b","): "next",
    ("end", b"}"): "close",
    ("end", b"]"): "close",
}


def object_by_grammar(text: bytes) -> dict[str, bytes] | None:
    """Return the members of the object in `text`, each value as it is written.

    Returns None if it is no object, has a name twice, or more than 32,768 tokens. Lets other
    greenlets run.
    """
    members = members_by_grammar(text)
    if members is None:
        return None
    return {json.loads(each.name): text[each.value_start : each.end] for each in members}


def members_by_grammar(text: bytes) -> list[Member] | None:
    """Return the spans of the members, in their order. None as :func:`object_by_grammar`."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return None
    at = _BLANKS.match(text).end()  # type: ignore[union-attr]
    if text[at : at + 1] != b"{":
        return None
    members = _Members(text)
    around = bytearray()  # the open brackets
    expected = "value"
    for number in range(_MAX_TOKENS):
        if number % _TOKENS_PER_TURN == 0:
            turn_if_due()
        token = _TOKEN.match(text, at)
        if token is None:
            return None
        at = token.end()
        comes = token["mark"] or (b"string" if token["string"] else b"flat")
        step = _STEPS.get((expected, comes))
        if step == "open":
            around += comes
            expected = _INSIDE[comes]
        elif step == "close" and around[-1] == _OPENED[comes]:
            around.pop()
            expected = "end"
        elif step == "next":
            expected = "name" if around[-1] == _OPENED[b"}"] else "value"
        elif step is None or step == "close":
            return None
        else:
            expected = step
        if not around:
            whole = expected == "end" and comes == b"}" and not text[at:].strip(_SPACE)
            return members.found if whole else None
        if len(around) == 1 and not members.see(expected, token):
            return None
    return None


class _Members:
    """Collects the members of the outermost object from its tokens."""

    def __init__(self, text: bytes) -> None:
        self.found: list[Member] = []
        self._names: set[str] = set()
        self._text = text

    def see(self, expected: str, token: re.Match[bytes]) -> bool:
        """Take one token. Returns False if it is a name that came before."""
        if expected == "colon":
            name = json.loads(token["string"])
            if name in self._names:
                return False
            self._names.add(name)
            self.found.append(Member(token["string"], token.start("string"), 0, 0))
        elif expected == "value":
            begin = _BLANKS.match(self._text, token.end()).end()  # type: ignore[union-attr]
            self.found[-1] = self.found[-1]._replace(value_start=begin)
        elif expected == "end":
            self.found[-1] = self.found[-1]._replace(end=token.end())
        return True
