"""The gateway's second entrance: a Flask blueprint whose view is the WSGI callable itself.

The first entrance is in front of Flask (``app.py``), for speed and for what Flask cannot route. The
blueprint exists so that the URL map and the table of guards show the gateway; a test proves that
both respond alike. ``/v1/proxy/tokens`` has the same two entrances.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import flask

from proxy.core.errors import ClientError

WSGICallable = Callable[[dict[str, Any], Any], Iterable[bytes]]


class RelayResponse(flask.Response):
    """A Flask response that calls the gateway's WSGI callable.

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
    """Makes the blueprint ``v1``: every path below it, in the nine standard methods."""
    blueprint = flask.Blueprint("v1", __name__)

    @blueprint.route("/", methods=METHODS, provide_automatic_options=False)
    @blueprint.route("/<path:path>", methods=METHODS, provide_automatic_options=False)
    def relay(path: str = "") -> RelayResponse:
        return RelayResponse(endpoint)

    return blueprint


def create_minting_blueprint(endpoint: WSGICallable) -> flask.Blueprint:
    """Makes the blueprint ``minting``: one path, whose methods the endpoint itself checks."""
    blueprint = flask.Blueprint("minting", __name__)

    @blueprint.route("", methods=METHODS, provide_automatic_options=False)
    def mint() -> RelayResponse:
        return RelayResponse(endpoint)

    return blueprint


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def create_disabled_blueprint(name: str, why: str) -> flask.Blueprint:
    """Makes a blueprint that responds 404 ``not_found`` with the message ``why`` to every path."""
    blueprint = flask.Blueprint(name, __name__)

    def refuse(path: str = "") -> flask.Response:
        raise ClientError(why, code="not_found")

    blueprint.add_url_rule("", "root", refuse, methods=_METHODS)
    blueprint.add_url_rule("/<path:path>", "below", refuse, methods=_METHODS)
    return blueprint
