"""Liveness and readiness, for load balancers and people: needs no token and no database."""

from datetime import UTC, datetime
from typing import Any, Protocol

import flask

from proxy import __version__
from proxy.web.replies import json_reply


class Node(Protocol):
    """The state of this worker."""

    @property
    def stopping(self) -> bool: ...

    @property
    def database_seen(self) -> bool: ...

    @property
    def database_state(self) -> str: ...

    @property
    def keys_state(self) -> str: ...

    @property
    def revocation_lag(self) -> float | None: ...


def create_blueprint(node: Node) -> flask.Blueprint:
    """Makes the blueprint of ``/health``, ``/live``, ``/livez``, ``/ready`` and ``/readyz``."""
    blueprint = flask.Blueprint("status", __name__)

    def alive() -> flask.Response:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return json_reply(
            {
                "status": "ok",
                "service": "openai-proxy",
                "version": __version__,
                "timestamp": now,
            }
        )

    def ready() -> flask.Response:
        if node.stopping:
            status = "draining"
        elif node.database_seen:
            status = "ready"
        else:
            status = "starting"
        body: dict[str, Any] = {
            "status": status,
            "database": node.database_state,
            # Seconds from the last change on any node to its effect in this worker.
            "revocation_lag": node.revocation_lag,
        }
        # Shown only while there is a fault: the node serves all other projects.
        if node.keys_state:
            body["keys"] = node.keys_state
        return json_reply(body, 200 if status == "ready" else 503)

    for rule in ("/health", "/live", "/livez"):
        blueprint.add_url_rule(rule, rule[1:], alive)
    for rule in ("/ready", "/readyz"):
        blueprint.add_url_rule(rule, rule[1:], ready)
    return blueprint
