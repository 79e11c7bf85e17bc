"""The one error shape, and the proxy's own JSON responses.

The official SDKs turn ``{"error": {"message", "type", "param", "code"}}`` into their usual
exceptions. Every refusal is made by :func:`error_reply`, including those of the raw WSGI relay, so
that no client gets an HTML page or another shape.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

import orjson

from proxy.core import errors
from proxy.core.errors import ProxyError

Headers = list[tuple[str, str]]


class Reply(NamedTuple):
    """A complete response: status line without the HTTP version, header list, body bytes."""

    status: str
    headers: Headers
    body: bytes


def status_line(status: int) -> str:
    """Return ``"404 Not Found"`` for ``404``."""
    return f"{status} {HTTPStatus(status).phrase}"


def error_body(error: ProxyError) -> bytes:
    """Return ``error`` in the one shape. The text of an internal error is only for the log."""
    text = "" if error.code == "internal_error" else str(error)
    message = text or errors.BY_CODE[error.code]
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


def error_reply(error: ProxyError, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """Return ``error`` as a complete response; ``extra`` headers (request id, CORS) go first."""
    body = error_body(error)
    headers: Headers = [
        *extra,
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        *error.headers,
    ]
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    return Reply(status_line(error.status), headers, body)
