"""Alive and ready, as a load balancer sees it."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy import __version__
from proxy.web import Mount, create_flask_app, status


@dataclass
class Node:
    stopping: bool = False
    database_seen: bool = True
    database_state: str = "ok"
    revocation_lag: float | None = None
    keys_state: str = ""


def client(node: Node) -> FlaskClient:
    return create_flask_app([Mount(status.create_blueprint(node), None, None)]).test_client()


@pytest.mark.parametrize("path", ["/health", "/live", "/livez"])
def test_alive_whatever_else(path: str) -> None:
    response = client(Node(stopping=True, database_seen=False)).get(path)
    body: Any = response.json
    assert response.status_code == 200
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", body.pop("timestamp"))
    assert body == {"status": "ok", "service": "openai-proxy", "version": __version__}


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
@pytest.mark.parametrize(
    ("node", "code", "said"),
    [
        (Node(), 200, "ready"),
        # A database that goes away later takes no node out of rotation.
        (Node(database_state="unavailable"), 200, "ready"),
        (Node(database_seen=False, database_state="not checked yet"), 503, "starting"),
        (Node(stopping=True), 503, "draining"),
        (Node(stopping=True, database_seen=False), 503, "draining"),
    ],
)
def test_ready(path: str, node: Node, code: int, said: str) -> None:
    response = client(node).get(path)
    assert response.status_code == code
    assert response.json == {
        "status": said,
        "database": node.database_state,
        "revocation_lag": None,
    }


def test_unreadable_keys_are_in_the_body_of_a_ready_node() -> None:
    response = client(Node(keys_state="3 of 5 rows cannot be read")).get("/ready")
    assert response.status_code == 200
    assert response.json["keys"] == "3 of 5 rows cannot be read"  # type: ignore[index]


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_request_ids(path: str) -> None:
    asked = client(Node())
    given = asked.get(path, headers={"X-Request-ID": "probe-1"})
    assert given.headers["X-Proxy-Request-ID"] == "probe-1"
    assert re.fullmatch("[0-9a-f]{32}", asked.get(path).headers["X-Proxy-Request-ID"])


def test_head_has_no_body() -> None:
    response = client(Node()).head("/health")
    assert (response.status_code, response.data) == (200, b"")
