"""Validation of JSON bodies and query parameters of the management API.

No input is guessed or ignored. An unknown field is refused, so that a typo (``max_request``) never
looks like a limit that was set. Every refusal is a ClientError whose ``param`` names the field.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import flask
import orjson
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from proxy.core.errors import ClientError
from proxy.crypto.tokens import looks_masked
from proxy.policy.fields import Scope, fields_of

MAX_BODY_BYTES: Final = 256 * 1024
MAX_METADATA_BYTES: Final = 64 * 1024
MAX_NAME_CHARS: Final = 255
MAX_KEY_CHARS: Final = 4096
#: Levels of a JSON value. orjson writes at most 254, and responses and audit entries add some.
MAX_DEPTH: Final = 100
#: The largest integer that every database keeps (a signed BIGINT).
MAX_INTEGER: Final = 2**63 - 1

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)
_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
#: An upstream key becomes a header value: visible ASCII, no spaces (RFC 9110, 5.5).
_KEY: Final = re.compile(r"[\x21-\x7e]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TRUTH: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}


def read_object(request: flask.Request, known: Collection[str]) -> dict[str, Any]:
    """Reads the request's JSON object with ``known`` names. Of a repeated name the last counts."""
    return parse_object(_read_body(request), known)


def read_objects(
    request: flask.Request, known: Collection[str], maximum: int
) -> list[dict[str, Any]]:
    """Reads the request's JSON array of at most ``maximum`` objects with ``known`` names."""
    found = _parse(_read_body(request), "array")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ClientError("The body must be a JSON array of objects.")
    if len(found) > maximum:
        raise ClientError(f"The array may have {maximum} entries at most.")
    for each in found:
        _refuse_unknown(each, known, "field")
    return found


def parse_object(raw: bytes, known: Collection[str]) -> dict[str, Any]:
    """Parses a JSON object with ``known`` names only. Of a repeated name the last counts."""
    body = _parse(raw, "object")
    if not isinstance(body, dict):
        raise ClientError("The body must be a JSON object.")
    _refuse_unknown(body, known, "field")
    return body


def _parse(raw: bytes, expected: str) -> Any:
    if not raw:
        raise ClientError(f"A JSON {expected} is expected in the body.")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ClientError(f"The body is not valid JSON: {error.msg}.") from error


def _read_body(request: flask.Request) -> bytes:
    too_large = ClientError(
        f"The body is larger than {MAX_BODY_BYTES} bytes.", code="request_too_large"
    )
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise too_large
    raw = b""
    try:
        # One read may return less than there is, and only the read at the end notices that the
        # client left early. Chunked bodies have no length to check.
        while len(raw) <= MAX_BODY_BYTES and (
            part := request.stream.read(MAX_BODY_BYTES + 1 - len(raw))
        ):
            raw += part
    except RequestEntityTooLarge as error:
        raise too_large from error
    except ClientDisconnected as error:
        raise ClientError("The body ended early.") from error
    if len(raw) > MAX_BODY_BYTES:
        raise too_large
    return raw


def read_query(request: flask.Request, known: Collection[str]) -> dict[str, str]:
    """Reads the query parameters, all ``known``. Of a repeated one the first counts."""
    _refuse_unknown(request.args, known, "query parameter")
    return {name: request.args[name] for name in request.args}


def _refuse_unknown(given: Collection[str], known: Collection[str], kind: str) -> None:
    for name in given:
        if name not in known:
            raise ClientError(f"Unknown {kind}: {name[:100]!r}.", param=name[:100])


def text(value: Any, param: str, max_chars: int) -> str:
    """Checks a string that a database can store: line breaks are allowed, NUL is not."""
    if not isinstance(value, str):
        raise ClientError(f"`{param}` must be a string.", param=param)
    if len(value) > max_chars:
        raise ClientError(f"`{param}` may have {max_chars} characters at most.", param=param)
    if "\x00" in value:
        raise ClientError(f"`{param}` must not contain NUL characters.", param=param)
    return value


def name(value: Any, param: str = "name") -> str:
    """Checks a name for people: stripped, not empty, one line, at most 255 characters."""
    if isinstance(value, str):
        value = value.strip()
    result = text(value, param, MAX_NAME_CHARS)
    if not result:
        raise ClientError(f"`{param}` must not be empty.", param=param)
    if _CONTROL.search(result):
        raise ClientError(f"`{param}` must not contain control characters.", param=param)
    return result


def upstream_key(value: Any, param: str) -> str:
    """Checks a key of an upstream. A mask, which a form filled from a response sends, is refused.

    No refusal repeats the key.
    """
    found = text(value, param, MAX_KEY_CHARS)
    if not _KEY.fullmatch(found):
        raise ClientError(
            f"`{param}` must be visible ASCII characters without spaces, and not empty.",
            param=param,
        )
    if looks_masked(found):
        raise ClientError(
            f"`{param}` is a masked key: send the real one, or leave the field out.", param=param
        )
    return found


def boolean(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise ClientError(f"`{param}` must be true or false.", param=param)
    return value


def choice(value: Any, param: str, options: Sequence[str]) -> str:
    """Checks for one of the words in ``options``, spelled exactly."""
    if not isinstance(value, str) or value not in options:
        words = ", ".join(f"`{option}`" for option in options)
        raise ClientError(f"`{param}` must be one of: {words}.", param=param)
    return value


def integer(value: Any, param: str, minimum: int, maximum: int) -> int:
    """Checks a JSON integer from ``minimum`` to ``maximum``; ``true`` and ``60.0`` are refused."""
    if not isinstance(value, int) or isinstance(value, bool):
        # The parser returns an integer beyond 64 bits as a float.
        raise ClientError(f"`{param}` must be an integer from {minimum} to {maximum}.", param=param)
    if not minimum <= value <= maximum:
        raise ClientError(f"`{param}` must be from {minimum} to {maximum}.", param=param)
    return value


def parse_datetime(value: Any, param: str) -> datetime:
    """Parses an RFC 3339 time with its offset. Returns it in UTC."""
    problem = ClientError(
        f"`{param}` must be an RFC 3339 time with an offset, such as 2026-05-20T00:03:00Z.",
        param=param,
    )
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise problem
    try:
        return datetime.fromisoformat(value.upper().replace(" ", "T")).astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the 31st of February; the year 0
        raise problem from error


def json_object(value: Any, param: str) -> dict[str, Any]:
    """Checks a JSON object of bounded size and depth."""
    if not isinstance(value, dict):
        raise ClientError(f"`{param}` must be a JSON object.", param=param)
    if _deeper(value, MAX_DEPTH):
        raise ClientError(f"`{param}` may be {MAX_DEPTH} levels deep at most.", param=param)
    if len(orjson.dumps(value)) > MAX_METADATA_BYTES:
        raise ClientError(f"`{param}` is larger than {MAX_METADATA_BYTES} bytes.", param=param)
    return value


def _deeper(value: Any, max_depth: int) -> bool:
    """Returns whether ``value`` nests deeper than ``max_depth``. Works without recursion."""
    level = [value]
    for _ in range(max_depth):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def uuid(value: str) -> str | None:
    """Returns ``value`` in lower case if it is a UUID with hyphens, else None."""
    return value.lower() if _UUID.fullmatch(value) else None


def path_id(value: str, kind: str) -> str:
    """Checks an id from the path or body. One that is no UUID cannot exist: 404 without a query."""
    known = uuid(value)
    if known is None:
        raise ClientError(f"There is no {kind} with this id.", code="not_found")
    return known


def query_id(query: Mapping[str, str], param: str) -> str | None:
    """Returns a UUID from the query, or None if it is absent."""
    if param not in query:
        return None
    known = uuid(query[param])
    if known is None:
        raise ClientError(f"`{param}` must be a UUID.", param=param)
    return known


def query_boolean(query: Mapping[str, str], param: str) -> bool | None:
    """Parses ``true``, ``1``, ``false`` or ``0`` from the query. Returns None if it is absent."""
    if param not in query:
        return None
    value = _TRUTH.get(query[param].lower())
    if value is None:
        raise ClientError(f"`{param}` must be true or false.", param=param)
    return value


def query_integer(query: Mapping[str, str], param: str, maximum: int) -> int | None:
    """Returns an integer from 1 to ``maximum``, or None if it is absent."""
    if param not in query:
        return None
    value = query[param]
    if not re.fullmatch(r"[0-9]{1,9}", value) or not 1 <= int(value) <= maximum:
        raise ClientError(f"`{param}` must be an integer from 1 to {maximum}.", param=param)
    return int(value)


def alias(given: Mapping[str, Any], canonical: str, other: str) -> str:
    """Returns the given one of a field's two names, or ``canonical`` if none was given.

    Both may be given with the same value.
    """
    if canonical in given and other in given and given[canonical] != given[other]:
        raise ClientError(
            f"`{canonical}` and `{other}` are the same field, and differ.", param=other
        )
    return other if other in given and canonical not in given else canonical


def rfc3339(when: datetime | None) -> str | None:
    """Returns ``2026-05-20T00:03:00.123456Z``. The length is fixed, so that it sorts as text."""
    if when is None:
        return None
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SPACE_FOR_PLUS: Final = re.compile(r" (\d\d:\d\d)$", re.ASCII)


def query_datetime(query: Mapping[str, str], param: str) -> datetime | None:
    """Parses a time or date. Returns it in UTC (a date's midnight), or None if it is absent.

    Raises ClientError.
    """
    if param not in query:
        return None
    given = _SPACE_FOR_PLUS.sub(r"+\1", query[param])
    try:
        found = parse_datetime(f"{given}T00:00:00Z" if _DATE.fullmatch(given) else given, param)
    except ClientError as error:
        raise ClientError(
            f"`{param}` must be a date, such as 2026-05-20, or an RFC 3339 time with an offset, "
            "such as 2026-05-20T00:03:00Z.",
            param=param,
        ) from error
    if not _FIRST <= found < _LAST:
        raise ClientError(f"`{param}` must be from {_FIRST.year} to {_LAST.year - 1}.", param=param)
    return found


def names(scope: Scope) -> frozenset[str]:
    """Returns the names of the policy fields that a project, or a token, may have."""
    return frozenset(fields_of(scope))


def read(body: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """Returns the policy fields in ``body`` as the store takes them. None removes a field.

    Raises ClientError ``invalid_request`` with the values that the field may have.
    """
    return {
        name: None if body[name] is None else field.read(name, body[name])
        for name, field in fields_of(scope).items()
        if name in body
    }


def policy_as_json(policy: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """Returns all policy fields as responses show them: an unset one as null or its default."""
    return {name: policy.get(name, field.default) for name, field in fields_of(scope).items()}
