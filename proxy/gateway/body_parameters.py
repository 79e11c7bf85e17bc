"""The top-level parameters of a request's body, for a policy that reads them.

Note: the parameters must be those that the upstream reads. So the body is read strictly, whatever
its content type is. A body that two parsers may read differently (a name twice or in another case,
another charset, a content encoding) is refused.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError
from proxy.gateway.request import ClientRequest
from proxy.providers.body import in_utf8
from proxy.providers.multipart import form_fields
from proxy.runtime.yielding import turn_if_due
from proxy.usage.estimate import text_bytes
from proxy.usage.json_spans import Member, top_members
from proxy.usage.large import LargeObject

#: Parts (names, values, brackets) of a body that is parsed. Parsing more would block the worker.
MAX_PARTS: Final = 512 * 1024
#: Top-level parameters. Real requests have far fewer.
MAX_PARAMETERS: Final = 1000
_MAX_NAME_CHARS: Final = 256
#: A body up to `_SMALL_BYTES`, or a plain one up to the other two limits, is parsed at once, which
#: takes a few milliseconds. Larger ones are parsed by slices.
_SMALL_BYTES: Final = 32 * 1024
_MAX_PLAIN_BYTES: Final = 256 * 1024
_MAX_PLAIN_PARTS: Final = 32 * 1024

# A visible ASCII letter as an escape. Clients write one only to spell a name in a second way.
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[2-7]")
_NO_LETTERS: Final = re.compile(r"[\W_]+")


def parameters_of(
    inbound: ClientRequest, body: bytes, wanted: frozenset[str], *, measured: bool = False
) -> Mapping[str, Any]:
    """Return the parameters of a whole ``body``, none for an empty one.

    The ``wanted`` ones are unambiguous. Those of a large body are :class:`Values`, and large values
    are :class:`LargeValue`, with the size of their text if ``measured``.

    Raises ClientError ``invalid_request`` for a body that cannot be read, or is ambiguous.
    """
    if not body:
        return {}
    encodings = [value for name, value in inbound.headers if name == "CONTENT-ENCODING"]
    if any(value.strip().lower() not in ("", "identity") for value in encodings):
        raise _unreadable("not be compressed (`Content-Encoding`)")
    types = [value for name, value in inbound.headers if name == "CONTENT-TYPE"]
    content_type = ",".join(types).lower()
    if len(types) > 1 or "form-urlencoded" in content_type:
        # A string in JSON may contain `&model=…&`, which a parser of such forms reads as a field.
        raise _unreadable("be JSON or a multipart form (`Content-Type`)")
    form = content_type.partition(";")[0].strip() == "multipart/form-data"
    if not form and not in_utf8(content_type):
        raise _unreadable("be in UTF-8 (`charset`)")
    if form:
        found: Mapping[str, Any] = form_fields(body, types[0], wanted)
    else:
        found = _json_members(body, wanted, measured)
    _check_names(found, wanted)
    return found


def _check_names(found: Mapping[str, Any], wanted: frozenset[str]) -> None:
    """Refuse a name that some parser reads as a wanted one.

    Go's parser reads `Model` as `model`. PHP's reads `max.tokens` as `max_tokens`, and protobuf's
    reads `maxTokens` so. A parser with C strings reads only the name before a NUL.
    """
    letters = {_letters(name): name for name in wanted}
    for name in found:
        if name in wanted:
            continue
        if len(name) > _MAX_NAME_CHARS or not name.isprintable() or " " in name:
            raise ClientError(
                f"The parameter {name[:100]!r} must be written in {_MAX_NAME_CHARS} characters at "
                "most, without blanks and control characters.",
                param=name[:100],
            )
        meant = letters.get(_letters(name))
        if meant is not None:
            raise ClientError(f"{name[:100]!r} must be written as `{meant}`.", param=name[:100])


def _letters(name: str) -> str:
    """Return the part of a name that all parsers keep: letters and digits, without their case."""
    return _NO_LETTERS.sub("", unicodedata.normalize("NFKC", name).casefold())


def _json_members(body: bytes, wanted: frozenset[str], measured: bool) -> dict[str, Any]:
    if len(body) > _SMALL_BYTES and not _is_light(body, wanted):
        return _members_by_slices(body, wanted, measured)
    if len(body) > MAX_PARTS < _parts(body):
        raise _unreadable(f"have {MAX_PARTS} parts at most")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _unreadable(f"be valid JSON in UTF-8: {error.msg}") from error
    if not isinstance(found, dict) or len(found) > MAX_PARAMETERS:
        raise _unreadable(f"be a JSON object of {MAX_PARAMETERS} members at most")
    if _may_repeat(body, wanted):
        _check_once(wanted, top_members(body))
    return found


def _members_by_slices(body: bytes, wanted: frozenset[str], measured: bool) -> dict[str, Any]:
    measure = text_bytes if measured else _nothing
    read = LargeObject(body, MAX_PARAMETERS, MAX_PARTS, measure)
    try:
        for _ in read.steps():
            turn_if_due()
    except ValueError as error:
        raise _unreadable(f"be a valid JSON object in UTF-8: {error}") from error
    _check_once(wanted, read.members)
    return read.values


def _check_once(wanted: frozenset[str], members: list[Member]) -> None:
    names = [orjson.loads(member.name) for member in members]
    for name in wanted:
        if names.count(name) > 1:
            raise ClientError(f"`{name}` is in the body twice.", param=name)


def _is_light(body: bytes, wanted: frozenset[str]) -> bool:
    """Return whether parsing takes only a few milliseconds though the body is not small."""
    return (
        len(body) <= _MAX_PLAIN_BYTES
        and _parts(body) <= _MAX_PLAIN_PARTS
        and not _may_repeat(body, wanted)
    )


def _parts(body: bytes) -> int:
    return sum(map(body.count, (b",", b":", b"{", b"[")))


def _nothing(value: object) -> int:
    return 0


def _may_repeat(body: bytes, wanted: frozenset[str]) -> bool:
    """Return whether a name may be there twice, as far as is visible without parsing."""
    return _ESCAPED_LETTER.search(body) is not None or any(
        body.count(b'"%b"' % name.encode()) > 1 for name in wanted
    )


def _unreadable(expected: str) -> ClientError:
    return ClientError(f"The rules of this access token read the body, so it must {expected}.")
