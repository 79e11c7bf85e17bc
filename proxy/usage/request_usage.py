"""Injects `stream_options.include_usage` into a streamed chat request without it.

The text is never serialised again. A member is inserted, or one value replaced, so that numbers,
escapes, spaces and the order of names stay as the client wrote them. A text with an ambiguous
meaning (a name twice, an odd type) stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from proxy.core.errors import ClientError
from proxy.runtime.yielding import turn_if_due
from proxy.usage.json_grammar import object_by_grammar
from proxy.usage.json_spans import Member, top_members
from proxy.usage.large import LargeObject, Values
from proxy.usage.splice import Splice, spliced

_UNKNOWN = object()
_ASKING = b'{"include_usage":true}'
_STREAM, _OPTIONS, _INCLUDE = b'"stream"', b'"stream_options"', b'"include_usage"'

# Larger bodies cost too much to inspect.
_MAX_PARSED = 4 * 1024 * 1024
_MAX_PARTS = 32 * 1024
_MAX_SCANNED = 256 * 1024
# Larger bodies, and those with more parts, are read by slices: at once they take over 5 ms.
_AT_ONCE = 128 * 1024
_PARTS_AT_ONCE = 4 * 1024
_MAX_MEMBERS = 1000
# A visible ASCII letter as an escape, which no name needs.
_ESCAPED = re.compile(rb"\\u00[2-7]")
# A letter of "stream" as an escape, which has no use but to spell a name a second time.
_ESCAPED_LETTER = re.compile(rb"\\u00(?:7[234]|6[15dD])")


def ask_for_usage(body: bytes) -> bytes | None:
    """Return `body` with `stream_options.include_usage` set to true.

    Returns None when it stays as it is: it has the option, is no stream, is no JSON object in
    UTF-8, is ambiguous, or is too large to inspect. Never raises.
    """
    if len(body) > _MAX_PARSED or _STREAM not in body:
        return None
    parts = _parts(body)
    if parts > _MAX_PARTS:
        return None
    if len(body) > _AT_ONCE or parts > _PARTS_AT_ONCE:
        return _asked_by_slices(body)
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError:
        request = _by_grammar(body)
    return _asked(body, request)


def _asked(body: bytes, request: object) -> bytes | None:
    if not isinstance(request, dict) or request.get("stream") is not True:
        return None
    if "stream_options" not in request and _has_stream_once(body):
        return _with_member(body, _OPTIONS + b":" + _ASKING, first=False)
    return _asked_in_place(body, request) if len(body) <= _MAX_SCANNED else None


def _by_grammar(body: bytes) -> dict[str, Any] | None:
    """Return the members of a JSON body that the parser refuses.

    A value that the parser refuses as well is unknown.
    """
    members = object_by_grammar(body)
    if members is None:
        return None
    request: dict[str, Any] = {}
    for name, text in members.items():
        try:
            request[name] = orjson.loads(text)
        except orjson.JSONDecodeError:
            request[name] = _UNKNOWN
    return request


def _asked_by_slices(body: bytes) -> bytes | None:
    read = LargeObject(body, _MAX_MEMBERS, 2 * _MAX_PARTS)
    try:
        for _ in read.steps():
            turn_if_due()
    except ValueError:
        return _asked(body, _by_grammar(body))
    request = read.values
    names = [orjson.loads(member.name) for member in request.members]
    if request.get("stream") is not True or names.count("stream") > 1:
        return None
    if "stream_options" in request or body.count(_STREAM) > 1:
        return _asked_in_place(body, request) if len(body) <= _MAX_SCANNED else None
    return _with_member(body, _OPTIONS + b":" + _ASKING, first=False)


def demand_usage(body: bytes, request: Mapping[str, Any]) -> bytes | None:
    """Return `body` with the option set, for a client whose usage must be counted.

    `request` is `body` parsed; each name that matters here is known to be there at most once.
    Returns None when it stays as it is: it has the option, or is no stream. Raises ClientError 400
    where two readers could disagree: a name twice, an odd type, too much to inspect.
    """
    stream, options = request.get("stream"), request.get("stream_options")
    if stream is not None and not isinstance(stream, bool):
        raise ClientError("`stream` must be true or false.", param="stream")
    if options is not None and not isinstance(options, dict):
        raise ClientError("`stream_options` must be an object.", param="stream_options")
    if options:
        _check_options(body, options, request)
        if options.get("include_usage"):
            return None
    if stream is not True:
        return None
    if "stream_options" not in request:
        return _with_member(body, _OPTIONS + b":" + _ASKING, first=False)
    place = _place_of(body, "stream_options", request)
    text = body[place.value_start : place.end]
    if options is None:
        asked = _ASKING
    elif "include_usage" in options:
        asked = _replaced(text, _place_of(text, "include_usage"), b"true")
    else:
        asked = _with_member(text, _INCLUDE + b":true", first=not options)
    return _replaced(body, place, asked)


def _check_options(body: bytes, options: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    for name in options:
        if name != "include_usage" and name.casefold() == "include_usage":
            raise ClientError(f"{name!r} must be written in lower case.", param="stream_options")
    include = options.get("include_usage")
    if include is not None and not isinstance(include, bool):
        raise ClientError("`include_usage` must be true or false.", param="stream_options")
    known = isinstance(request, Values)
    if known or body.count(_INCLUDE) > 1 or _ESCAPED.search(body) is not None:
        place = _place_of(body, "stream_options", request)
        members = top_members(body[place.value_start : place.end])
        if [orjson.loads(member.name) for member in members].count("include_usage") > 1:
            raise ClientError("`include_usage` is there twice.", param="stream_options")


def _place_of(text: bytes, name: str, value: Mapping[str, Any] | None = None) -> Member:
    """Return the span of the one member of that name, however spelled. `value`: text, parsed."""
    if (value.brackets // 2 if isinstance(value, Values) else _parts(text)) > _MAX_PARTS:
        raise ClientError(
            "`stream_options` cannot be read in a body of so many parts: leave it out, or send"
            ' {"include_usage": true} alone.',
            param="stream_options",
        )
    members = value.members if isinstance(value, Values) else top_members(text)
    return next(each for each in members if orjson.loads(each.name) == name)


def _parts(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[") + text.count(b'":')


def _has_stream_once(body: bytes) -> bool:
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
    # False and null equal a missing option. The upstream decides about any other value.
    if place is None or not (options["include_usage"] is None or options["include_usage"] is False):
        return None
    return _replaced(text, place, b"true")


def _unambiguous(text: bytes, value: dict[str, Any]) -> dict[bytes, Member] | None:
    """Return the members by name, or None if a name is there twice: servers differ then."""
    members = value.members if isinstance(value, Values) else top_members(text)
    return {member.name: member for member in members} if len(members) == len(value) else None


def _with_member(text: bytes, member: bytes, *, first: bool) -> bytes:
    end = text.rindex(b"}")
    return spliced(text, [Splice(end, end, member if first else b"," + member)])


def _replaced(text: bytes, place: Member, value: bytes) -> bytes:
    return spliced(text, [Splice(place.value_start, place.end, value)])
