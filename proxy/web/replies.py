"""The one error shape, and JSON answers of our own.

``{"error": {"message", "type", "param", "code"}}`` is what the official SDKs turn into their usual
exceptions. Every refusal leaves through :func:`error_reply`, the raw WSGI relay's included, so
that no client ever meets an HTML page or a second shape.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import flask
import orjson

from proxy import messages
from proxy.errors import ProxyError

Headers = list[tuple[str, str]]


class Reply(NamedTuple):
    """A complete answer: HTTP status line without the version, header list, body bytes."""

    status: str
    headers: Headers
    body: bytes


def status_line(status: int) -> str:
    """``404`` → ``"404 Not Found"``."""
    return f"{status} {HTTPStatus(status).phrase}"


def error_body(error: ProxyError) -> bytes:
    """``error`` in the one shape; what a defect of ours says is for the log only."""
    said = "" if error.code == "internal_error" else str(error)
    message = said or messages.BY_CODE[error.code]
    return orjson.dumps(
        {
            "error": {
                "message": message,
                "type": messages.error_type(error.status),
                "param": error.param,
                "code": error.code,
            }
        }
    )


def error_reply(error: ProxyError, extra: Sequence[tuple[str, str]] = ()) -> Reply:
    """``error`` as a complete answer; ``extra`` headers (request id, CORS) go in front."""
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


def flask_error(error: ProxyError) -> flask.Response:
    """:func:`error_reply` for a Flask view."""
    status, headers, body = error_reply(error)
    return flask.Response(body, status=status, headers=headers)


def json_reply(
    value: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()
) -> flask.Response:
    """``value`` as a JSON answer. Datetimes must be RFC 3339 strings already."""
    return flask.Response(
        orjson.dumps(value),
        status=status,
        headers=list(headers),
        content_type="application/json",
    )
