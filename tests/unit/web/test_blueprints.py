"""The relay's two doors: in front of Flask, and the blueprint; both response alike."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from proxy.core.errors import ConnectFailed, ResponseBroken, StoreError
from tests.support.relay_factories import (
    ALLOWING,
    ASKED,
    EVENT,
    ORIGIN,
    SECRET,
    SSE,
    USAGE,
    Access,
    FakeResponse,
    Result,
    World,
    environ,
    failing,
    sized,
    used_up,
)

FIXED = [("X-Request-ID", "r1")]
BOTH: dict[str, Callable[[], tuple[World, dict[str, Any]]]] = {
    "get": lambda: (World(), {}),
    "post": lambda: (World(), {"method": "POST", **sized(b"{}")}),
    "sse": lambda: (World(FakeResponse([EVENT, USAGE], headers=SSE)), {}),
    "no content type": lambda: (World(FakeResponse([b"x"], headers=[])), {}),
    "304": lambda: (World(FakeResponse([], status=304, reason="Not Modified", headers=[])), {}),
    "relative location": lambda: (
        World(FakeResponse([], status=302, reason="Found", headers=[("Location", "/ä?x")])),
        {},
    ),
    "head": lambda: (
        World(FakeResponse([], headers=[("Content-Length", "5")])),
        {"method": "HEAD"},
    ),
    "options": lambda: (World(), {"method": "OPTIONS"}),
    "trace": lambda: (World(), {"method": "TRACE"}),
    "encoded slash": lambda: (World(), {"target": "/v1/files/a%2Fb?c=%2F"}),
    "slash at the end": lambda: (World(), {"target": "/v1/models/"}),
    "nothing behind the prefix": lambda: (World(), {"target": "/v1/"}),
    "odd reason": lambda: (World(FakeResponse(status=499, reason="Ä b")), {}),
    "upstream gone": lambda: (World(FakeResponse([EVENT, ResponseBroken()], headers=SSE)), {}),
    "upstream away": lambda: (failing(ConnectFailed("away")), {}),
    "no token": lambda: (World(), {"token": None}),
    "no token, head": lambda: (World(), {"token": None, "method": "HEAD"}),
    "dots": lambda: (World(), {"target": "/v1/a/%2e%2e/b"}),
    "too large": lambda: (World(), {"method": "POST", **sized(b"x" * 1001)}),
    "quota": lambda: (World(access=used_up()), {}),
    "store away": lambda: (World(access=Access(refusal=StoreError())), {}),
    "defect": lambda: (World(access=Access(refusal=ZeroDivisionError())), {}),
    "full": lambda: (World(concurrent=0), {}),
    "preflight": lambda: (
        World(origins=["*"]),
        {"method": "OPTIONS", "headers": [ORIGIN, ASKED], "token": None},
    ),
    "cors": lambda: (World(FakeResponse(headers=ALLOWING), origins=["*"]), {"headers": [ORIGIN]}),
    "client gone": lambda: (World(FakeResponse([EVENT, EVENT], headers=SSE)), {"stop_after": 2}),
}


def seen(ask: Callable[..., Result], world: World, kwargs: dict[str, Any]) -> Any:
    """Everything that a client and the log would see, without times."""
    result = ask(**{**kwargs, "headers": [*kwargs.get("headers", ()), *FIXED]})
    headers = [
        (name, re.sub(r"[\d.]+", "N", value) if "Timing" in name or "Request-St" in name else value)
        for name, value in result.headers
    ]
    events = [
        (event.status_code, event.outcome, event.error_code, event.bytes_in, event.bytes_out)
        for event in world.events
    ]
    return result.status, headers, result.chunks, type(result.error), events, len(world.in_flight)


@pytest.mark.parametrize("name", BOTH)
def test_both_entrances_respond_alike(name: str) -> None:
    front, kwargs = BOTH[name]()
    expected = seen(front.ask, front, kwargs)
    behind, kwargs = BOTH[name]()
    assert seen(behind.ask_flask, behind, kwargs) == expected
    assert expected[0]
    assert expected[-1] == 0


def test_flask_s_door_does_not_pull_the_stream_and_closes_it_once() -> None:
    world = World(FakeResponse([EVENT, USAGE], headers=SSE))
    heads: list[Any] = []
    items: Any = world.flask.wsgi_app(environ(), lambda *head: heads.append(head))
    assert (world.response.reads, len(heads), len(world.in_flight)) == (0, 1, 1)
    assert next(iter(items)) == b""
    assert world.response.reads == 0
    assert next(items) == EVENT
    assert world.response.reads == 1
    items.close()
    items.close()
    assert (world.response.closed, len(world.events), len(world.in_flight)) == (1, 1, 0)


def test_flask_s_test_client_gets_what_the_upstream_sent() -> None:
    world = World(FakeResponse([b"x"], headers=[]))
    response = world.flask.test_client().get(
        "/v1/models", headers={"Authorization": f"Bearer {SECRET}"}
    )
    assert (response.status_code, response.data) == (200, b"x")
    assert "Content-Type" not in response.headers
    assert "Content-Length" not in response.headers
    response.close()
    assert world.event.endpoint == "/v1/models"
    refused = world.flask.test_client().post("/v1/models", json={})
    assert (refused.status_code, refused.json["error"]["code"]) == (401, "invalid_token")


def test_a_body_through_flask_s_test_client() -> None:
    world = World()
    response = world.flask.test_client().post(
        "/v1/files/a%2Fb?x=%2F",
        data=b"\x00\x01" * 100,
        headers={"Authorization": f"Bearer {SECRET}", "Content-Type": "application/octet-stream"},
    )
    assert response.status_code == 200
    assert world.transport.bodies == [b"\x00\x01" * 100]
    assert world.transport.calls[0].url == "http://upstream.test/v1/files/a%2Fb?x=%2F"


def test_every_standard_method_has_its_rule() -> None:
    rules = [rule for rule in World().flask.url_map.iter_rules() if rule.endpoint == "v1.relay"]
    assert {rule.rule for rule in rules} == {"/v1/", "/v1/<path:path>"}
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
    assert all(rule.methods == set(methods) for rule in rules)
