"""Responses of Flask views: JSON, and errors in the one shape."""

from collections.abc import Sequence
from typing import Any

import flask
import orjson

from proxy.core.errors import ProxyError
from proxy.gateway.responses import error_reply


def flask_error(error: ProxyError) -> flask.Response:
    """:func:`error_reply` for a Flask view."""
    status, headers, body = error_reply(error)
    return flask.Response(body, status=status, headers=headers)


def json_reply(
    value: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()
) -> flask.Response:
    """Returns ``value`` as a JSON response. Datetimes must already be RFC 3339 strings."""
    return flask.Response(
        orjson.dumps(value),
        status=status,
        headers=list(headers),
        content_type="application/json",
    )
