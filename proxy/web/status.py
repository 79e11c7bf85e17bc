"""Is it alive, is it ready: for load balancers and people. No bearer, no database on the path."""

from datetime import UTC, datetime
from typing import Any, Protocol

import flask

from proxy import __version__
from proxy.web.replies import json_reply


class Node(Protocol):
    """What this worker knows of itself."""

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
    """``/health``, ``/live``, ``/livez``; ``/ready``, ``/readyz``."""
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
            # Seconds from the last change made anywhere to its being felt in this worker.
            "revocation_lag": node.revocation_lag,
        }
        # Only while something is wrong with them: the node serves all other projects.
        if node.keys_state:
            body["keys"] = node.keys_state
        return json_reply(body, 200 if status == "ready" else 503)

    for rule in ("/health", "/live", "/livez"):
        blueprint.add_url_rule(rule, rule[1:], alive)
    for rule in ("/ready", "/readyz"):
        blueprint.add_url_rule(rule, rule[1:], ready)
    return blueprint
