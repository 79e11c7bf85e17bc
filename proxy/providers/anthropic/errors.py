"""Errors of Anthropic's in OpenAI's shape, and errors of OpenAI's in Anthropic's.

Source: https://platform.claude.com/docs/en/api/errors, and `types/shared` of Anthropic's Python
SDK. Its `message` is for people; `type` and `details.error_code` are for programs.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import anthropic_error_type, error_type

#: Status of an overload, which no client of OpenAI's knows.
OVERLOADED: Final = 529
#: Its `type` → the status that it has as a response of its own.
_STATUS_BY_TYPE: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": OVERLOADED,
}
#: Its `type` → `code` in OpenAI's shape, where that is not the `type` itself.
_CODE_BY_TYPE: Final[Mapping[str, str]] = {
    "not_found_error": "model_not_found",
    "overloaded_error": "overloaded",
}
#: `code` or `type` of an error in OpenAI's dialect → its status, beside Anthropic's own words.
_CHAT_STATUS: Final[Mapping[str, int]] = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "model_not_found": 404,
    "overloaded": 503,
    "server_overloaded": 503,
}
_UNREADABLE: Final = "The upstream sent an error that cannot be read."


def client_status(status: int) -> int:
    """Return the status that a client of OpenAI's gets for an upstream's error.

    A 500 would say that the proxy is at fault.
    """
    return {OVERLOADED: 503, 500: 502}.get(status, status)


def event_status(data: bytes) -> int:
    """Return the upstream's status that an error event stands for; 500 for a type not known."""
    return _STATUS_BY_TYPE.get(_text(error_in(data), "type"), 500)


def openai_error(data: bytes, status: int | None = None) -> bytes:
    """Return a body, or the data of an event, in OpenAI's shape, as JSON.

    `status` is that of the response; None: that of an event, which has none of its own. What is no
    error of Anthropic's, such as a page of HTML, is not passed on.
    """
    error = error_in(data)
    known = _text(error, "type")
    if status is None:
        status = _STATUS_BY_TYPE.get(known, 500)
    status = client_status(status)
    details = error.get("details")
    code = _text(details, "error_code") or _CODE_BY_TYPE.get(known, known)
    shaped = {
        "message": _text(error, "message") or _UNREADABLE,
        "type": error_type(status),
        "param": None,
        "code": code or "upstream_broken",
    }
    return orjson.dumps({"error": shaped})


def chat_event_status(data: bytes) -> int:
    """Return the status that an error in a stream of OpenAI's stands for; 500 if unknown."""
    error = error_in(data)
    for name in ("status", "code"):  # some services write the status itself
        found = error.get(name)
        if isinstance(found, int) and 400 <= found < 600:
            return found
    for name in ("code", "type"):
        word = _text(error, name)
        if (known := _CHAT_STATUS.get(word) or _STATUS_BY_TYPE.get(word)) is not None:
            return known
    return 500


def anthropic_error_of(data: bytes, status: int | None = None) -> bytes:
    """Return an error in OpenAI's shape as one of Anthropic's, as JSON.

    `data` is a body, or the data of an event. `status` is that of the response; None: that of an
    event, which has none of its own. What is no error of OpenAI's, such as a page of HTML, is not
    passed on.
    """
    if status is None:
        status = chat_event_status(data)
    decoded = _decoded(data)
    message = _text(_error_member(decoded), "message") or _text(decoded, "error")
    shaped = {"type": anthropic_error_type(status), "message": message or _UNREADABLE}
    return orjson.dumps({"type": "error", "error": shaped})


def error_in(data: bytes) -> Mapping[str, Any]:
    """Return the error that a body, or the data of an event, holds in either shape; empty: none."""
    return _error_member(_decoded(data))


def _decoded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _error_member(decoded: Any) -> Mapping[str, Any]:
    error = decoded.get("error") if isinstance(decoded, dict) else None
    return error if isinstance(error, dict) else {}


def _text(holder: Any, name: str) -> str:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else ""
