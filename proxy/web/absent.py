"""Routes that this node does not have, and why: better than a bare 404 for who expects them.

The thing to get wrong: the guard stands in front of it all the same, so that nobody learns from it
how a node is set up.
"""

import flask

from proxy.errors import ClientError

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def create_blueprint(name: str, why: str) -> flask.Blueprint:
    """Whatever lies below its prefix answers 404 ``not_found`` with the message ``why``."""
    blueprint = flask.Blueprint(name, __name__)

    def refuse(path: str = "") -> flask.Response:
        raise ClientError(why, code="not_found")

    blueprint.add_url_rule("", "root", refuse, methods=_METHODS)
    blueprint.add_url_rule("/<path:path>", "below", refuse, methods=_METHODS)
    return blueprint
