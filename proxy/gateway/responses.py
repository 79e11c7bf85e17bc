"""The error shape of each dialect, and the proxy's own JSON responses.

The official SDKs turn ``{"error": {"message", "type", "param", "code"}}`` into their usual
exceptions. Clients of :data:`MESSAGES` expect Anthropic's
``{"type": "error", "error": {"type", "message"}, "request_id"}``. Every refusal is made by
:func:`error_reply`, including those of the raw WSGI relay, so that no client gets an HTML page or
another shape.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import orjson

from proxy.core import errors
from proxy.core.errors import ProxyError

Headers = list[tuple[str, str]]

#: The endpoint of Anthropic's API. What is below it belongs to that API, too.
MESSAGES: Final = "/v1/messages"


class Reply(NamedTuple):
    """A complete response: status line without the HTTP version, header list, body bytes."""

    status: str
    headers: Headers
    body: bytes


def status_line(status: int) -> str:
    """Return ``"404 Not Found"`` for ``404``."""
    return f"{status} {HTTPStatus(status).phrase}"


def speaks_anthropic(path: str) -> bool:
    """Return whether clients of this path, without its query, speak Anthropic's dialect."""
    return path.startswith(MESSAGES) and path[len(MESSAGES) :][:1] in ("", "/")


def error_body(error: ProxyError, path: str = "", request_id: str = "") -> bytes:
    """Return ``error`` in the shape of the dialect of ``path``.

    The text of an internal error is only for the log.
    """
    text = "" if error.code == "internal_error" else str(error)
    message = text or errors.BY_CODE[error.code]
    if speaks_anthropic(path):
        # `code` and `param` are no members of Anthropic's. Its SDKs ignore what they do not know.
        found: dict[str, Any] = {
            "type": errors.anthropic_error_type(error.status),
            "message": message,
            "code": error.code,
        }
        if error.param is not None:
            found["param"] = error.param
        return orjson.dumps({"type": "error", "error": found, "request_id": request_id})
    return orjson.dumps(
        {
            "error": {
                "message": message,
                "type": errors.error_type(error.status),
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_reply(
    error: ProxyError,
    extra: Sequence[tuple[str, str]] = (),
    *,
    path: str = "",
    request_id: str = "",
) -> Reply:
    """Return ``error`` as a complete response, in the dialect of ``path``.

    ``extra`` headers (request id, CORS) go first.
    """
    body = error_body(error, path, request_id)
    headers: Headers = [
        *extra,
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        *error.headers,
    ]
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    if speaks_anthropic(path):
        headers.append(("request-id", request_id))  # where Anthropic's SDKs look for it
    return Reply(status_line(error.status), headers, body)
