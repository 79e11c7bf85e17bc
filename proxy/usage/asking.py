"""A streamed chat request that does not ask for its usage, made to ask.

The one thing a reader would get wrong: the text is never written anew. A member is put in, or one
value replaced, so that numbers, escapes, spaces and the order of names stay as the client wrote
them; and where it is not plain what a text means (a name twice, an odd type), it stays as it is.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from proxy.usage.members import Member, top_members

_ASKING = b'{"include_usage":true}'
_STREAM, _OPTIONS, _INCLUDE = b'"stream"', b'"stream_options"', b'"include_usage"'

# So long the event loop is held: 4 MiB of text take 30 ms to parse on a slow core, 32,768 names and
# brackets 20 ms (4 MiB of nothing else would take 500 ms). Finding places takes ten times as long.
_MAX_PARSED = 4 * 1024 * 1024
_MAX_PARTS = 32 * 1024
_MAX_SCANNED = 256 * 1024
# A letter of "stream" as an escape, which nobody writes but to spell a name a second time.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:7[234]|6[15dD])")


def ask_for_usage(body: bytes) -> bytes | None:
    """``body`` with ``stream_options.include_usage`` set to true.

    None when it stays as it is: it asks already, is no stream, is no JSON object in UTF-8, is
    ambiguous, or is too large to look at. Never raises.
    """
    if len(body) > _MAX_PARSED or _STREAM not in body:
        return None
    if body.count(b"{") + body.count(b"[") + body.count(b'":') > _MAX_PARTS:
        return None
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(request, dict) or request.get("stream") is not True:
        return None
    if "stream_options" not in request and _says_stream_once(body):
        return _with_member(body, _OPTIONS + b":" + _ASKING, first=False)
    return _asked_in_place(body, request) if len(body) <= _MAX_SCANNED else None


def _says_stream_once(body: bytes) -> bool:
    return body.count(_STREAM) == 1 and _ESCAPED_LETTER.search(body) is None


def _asked_in_place(body: bytes, request: dict[str, Any]) -> bytes | None:
    members = _unambiguous(body, request)
    if members is None:
        return None
    if "stream_options" not in request:
        return _with_member(body, _OPTIONS + b":" + _ASKING, first=False)
    place = members.get(_OPTIONS)
    if place is None:  # its name is spelled with escapes
        return None
    options, text = request["stream_options"], body[place.value_start : place.end]
    asked = _ASKING if options is None else _options_asking(text, options)
    return None if asked is None else _replaced(body, place, asked)


def _options_asking(text: bytes, options: object) -> bytes | None:
    members = _unambiguous(text, options) if isinstance(options, dict) else None
    if members is None or not isinstance(options, dict):
        return None
    if "include_usage" not in options:
        return _with_member(text, _INCLUDE + b":true", first=not options)
    place = members.get(_INCLUDE)
    # False and null are what leaving it out means; anything else the upstream shall judge.
    if place is None or not (options["include_usage"] is None or options["include_usage"] is False):
        return None
    return _replaced(text, place, b"true")


def _unambiguous(text: bytes, value: dict[str, Any]) -> dict[bytes, Member] | None:
    """The members by name; None if two have the same, of which servers take this one or that."""
    members = top_members(text)
    return {member.name: member for member in members} if len(members) == len(value) else None


def _with_member(text: bytes, member: bytes, *, first: bool) -> bytes:
    end = text.rindex(b"}")
    return text[:end] + (b"" if first else b",") + member + text[end:]


def _replaced(text: bytes, place: Member, value: bytes) -> bytes:
    return text[: place.value_start] + value + text[place.end :]
