"""Asking a server for the least there is, and reading what it refuses."""

import json

from tests.rawclient import RawAnswer, RawClient
from tests.server import ProxyServer


def ask(server: ProxyServer, token: str, target: str = "/v1/models") -> RawAnswer:
    """A GET on a connection of its own, so that any worker may have it."""
    with RawClient(server.port, timeout=60) as client:
        client.request("GET", target, [("Authorization", f"Bearer {token}")])
        return client.read_answer()


def error_of(answer: RawAnswer) -> str:
    """The code, once the shape has been checked."""
    assert answer.values("Content-Type") == ["application/json"]
    body = json.loads(answer.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    code: str = body["error"]["code"]
    return code
