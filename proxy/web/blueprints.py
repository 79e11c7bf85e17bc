"""The relay's second door: a Flask blueprint whose view is the WSGI callable itself.

The first door is in front of Flask (``app.py``), for speed and for what Flask cannot route. This
one is there so that the URL map and the table of guards show the relay; a test proves that both
answer alike. ``/v1/proxy/tokens`` has the same two doors.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import flask

from proxy.core.errors import ClientError

WSGICallable = Callable[[dict[str, Any], Any], Iterable[bytes]]


class RelayResponse(flask.Response):
    """A Flask response that is the relay itself.

    Werkzeug must not handle the stream: it would pull the first chunk before the head, rewrite
    header lines, and never close a stream whose first chunk fails.
    """

    def __init__(self, endpoint: WSGICallable) -> None:
        super().__init__()
        self._endpoint = endpoint

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        return self._endpoint(environ, start_response)


METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")


def create_blueprint(endpoint: WSGICallable) -> flask.Blueprint:
    """``v1``: every path below it, in the nine standard methods."""
    blueprint = flask.Blueprint("v1", __name__)

    @blueprint.route("/", methods=METHODS, provide_automatic_options=False)
    @blueprint.route("/<path:path>", methods=METHODS, provide_automatic_options=False)
    def relay(path: str = "") -> RelayResponse:
        return RelayResponse(endpoint)

    return blueprint


def create_minting_blueprint(endpoint: WSGICallable) -> flask.Blueprint:
    """``minting``: one path, of which the endpoint itself says what may be done with it."""
    blueprint = flask.Blueprint("minting", __name__)

    @blueprint.route("", methods=METHODS, provide_automatic_options=False)
    def mint() -> RelayResponse:
        return RelayResponse(endpoint)

    return blueprint


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def create_disabled_blueprint(name: str, why: str) -> flask.Blueprint:
    """Whatever lies below its prefix answers 404 ``not_found`` with the message ``why``."""
    blueprint = flask.Blueprint(name, __name__)

    def refuse(path: str = "") -> flask.Response:
        raise ClientError(why, code="not_found")

    blueprint.add_url_rule("", "root", refuse, methods=_METHODS)
    blueprint.add_url_rule("/<path:path>", "below", refuse, methods=_METHODS)
    return blueprint
