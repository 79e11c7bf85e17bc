"""Minimal requests to a server, and the errors in its responses."""

import json
from typing import Any

import requests

from tests.support import canaries
from tests.support.raw_client import RawClient, RawResponse
from tests.support.server import ProxyServer


def ask(server: ProxyServer, token: str, target: str = "/v1/models") -> RawResponse:
    """A GET on a connection of its own, so that any worker may have it."""
    with RawClient(server.port, timeout=60) as client:
        client.request("GET", target, [("Authorization", f"Bearer {token}")])
        return client.read_response()


def mint(server: ProxyServer, parent: str, status: int = 201, **fields: Any) -> dict[str, Any]:
    answer = requests.post(
        f"{server.url}/v1/proxy/tokens",
        json={"duration_minutes": 5, **fields},
        headers={"Authorization": f"Bearer {parent}"},
        timeout=30,
    )
    assert answer.status_code == status, answer.text
    made: dict[str, Any] = answer.json()
    if status == 201:
        canaries.register(made["token"])
    return made


def chat(server: ProxyServer, token: str, **more: Any) -> int:
    return requests.post(
        f"{server.url}/v1/chat/completions",
        json={"model": "gpt-4.1-mini", "messages": [], **more},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    ).status_code


def error_of(answer: RawResponse) -> str:
    """The code, once the shape has been checked."""
    assert answer.values("Content-Type") == ["application/json"]
    body = json.loads(answer.body)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    code: str = body["error"]["code"]
    return code
