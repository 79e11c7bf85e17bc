"""The one error shape, and JSON responses of the proxy's own.

``{"error": {"message", "type", "param", "code"}}`` is what the official SDKs turn into their usual
exceptions. Every refusal leaves through :func:`error_reply`, the raw WSGI relay's included, so
that no client ever meets an HTML page or a second shape.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

import orjson

from proxy.core import errors
from proxy.core.errors import ProxyError

Headers = list[tuple[str, str]]


class Reply(NamedTuple):
    """A complete response: HTTP status line without the version, header list, body bytes."""

    status: str
    headers: Headers
    body: bytes


def status_line(status: int) -> str:
    """``404`` → ``"404 Not Found"``."""
    return f"{status} {HTTPStatus(status).phrase}"


def error_body(error: ProxyError) -> bytes:
    """``error`` in the one shape; what a defect of ours says is for the log only."""
    said = "" if error.code == "internal_error" else str(error)
    message = said or errors.BY_CODE[error.code]
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
    """``error`` as a complete response; ``extra`` headers (request id, CORS) go in front."""
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
