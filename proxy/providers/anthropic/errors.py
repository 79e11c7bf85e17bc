"""Anthropic's errors in OpenAI's shape.

Source: https://platform.claude.com/docs/en/api/errors, and `types/shared` of Anthropic's Python
SDK. Its `message` is for people; `type` and `details.error_code` are for programs.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import error_type

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
_UNREADABLE: Final = "The upstream sent an error that cannot be read."


def client_status(status: int) -> int:
    """Return the status that a client of OpenAI's gets for an upstream's error."""
    return 503 if status == OVERLOADED else status


def event_status(data: bytes) -> int:
    """Return the upstream's status that an error event stands for; 500 for a type not known."""
    return _STATUS_BY_TYPE.get(_text(_error_in(_decoded(data)), "type"), 500)


def openai_error(data: bytes, status: int | None = None) -> bytes:
    """Return a body, or the data of an event, in OpenAI's shape, as JSON.

    `status` is that of the response; None: that of an event, which has none of its own. What is no
    error of Anthropic's, such as a page of HTML, is not passed on.
    """
    decoded = _decoded(data)
    error = _error_in(decoded)
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


def _decoded(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _error_in(decoded: Any) -> Mapping[str, Any]:
    error = decoded.get("error") if isinstance(decoded, dict) else None
    return error if isinstance(error, dict) else {}


def _text(holder: Any, name: str) -> str:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, str) else ""
