"""Requests for the list of models of a project that routes: who responds, and with what."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.auth.principal import Principal
from proxy.gateway.model_listing import ModelListing
from proxy.routing.access import RoutingAccess
from proxy.routing.model_list import ListedModel
from tests.support.relay_factories import Access, World

ROUTING = RoutingAccess(all_providers=True)
MODELS = [ListedModel("smart", 0, "a"), ListedModel("a/x y", 5, "a")]


class Models:
    """Lists :data:`MODELS`."""

    def models(self, access: Any, own_key: Any, allowed: Any) -> list[ListedModel]:
        return [model for model in MODELS if allowed(model.id)]

    def find(self, access: Any, own_key: Any, allowed: Any, name: str) -> ListedModel | None:
        return next(
            (model for model in self.models(access, own_key, allowed) if model.id == name), None
        )


class Routing(Access):
    """Its tokens belong to a project with providers."""

    def authenticate(self, authorization: str | None) -> Principal:
        return replace(super().authenticate(authorization), routing=ROUTING)


def world() -> World:
    made = World(access=Routing())
    routing: Any = SimpleNamespace(
        listing=ModelListing(Models()),  # type: ignore[arg-type]
        headers=lambda request: [],
    )
    made.endpoint._routing = routing
    return made


def test_the_list() -> None:
    made = world()
    result = made.ask("GET", "/v1/models?x=1")
    assert result.status == "200 OK"
    assert json.loads(result.body) == {
        "object": "list",
        "data": [
            {"id": "smart", "object": "model", "created": 0, "owned_by": "a"},
            {"id": "a/x y", "object": "model", "created": 5, "owned_by": "a"},
        ],
    }
    assert result.one("Content-Type") == "application/json"
    assert result.one("Content-Length") == str(len(result.body))
    assert result.one("X-Proxy-Request-ID")
    assert made.transport.calls == []
    assert made.access.steps == ["authenticate", "take_quota"]
    assert len(made.in_flight) == 0


def test_the_list_for_clients_of_anthropic() -> None:
    made, line = world(), [("anthropic-version", "2023-06-01")]
    models = [
        {
            "type": "model",
            "id": "smart",
            "display_name": "smart",
            "created_at": "1970-01-01T00:00:00Z",
        },
        {
            "type": "model",
            "id": "a/x y",
            "display_name": "a/x y",
            "created_at": "1970-01-01T00:00:05Z",
        },
    ]
    assert json.loads(made.ask("GET", "/v1/models?limit=1", headers=line).body) == {
        "data": models,
        "has_more": False,
        "first_id": "smart",
        "last_id": "a/x y",
    }
    found = made.ask("GET", "/v1/models/a%2Fx%20y", headers=line)
    assert json.loads(found.body) == models[1]


@pytest.mark.parametrize("created", [-1, 10**18])
def test_odd_times_are_bounded(monkeypatch: pytest.MonkeyPatch, created: int) -> None:
    monkeypatch.setattr(Models, "models", lambda *_: [ListedModel("a", created, "a")])
    found = world().ask("GET", "/v1/models", headers=[("anthropic-version", "2023-06-01")])
    shown = json.loads(found.body)["data"][0]["created_at"]
    assert shown in ("1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z")


def test_no_models_for_clients_of_anthropic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Models, "models", lambda *_: [])
    found = world().ask("GET", "/v1/models", headers=[("anthropic-version", "2023-06-01")])
    assert json.loads(found.body) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_its_event() -> None:
    made = world()
    result = made.ask("GET", "/v1/models")
    event = made.event
    assert (event.status_code, event.outcome, event.error_code) == (200, "completed", None)
    assert (event.endpoint, event.bytes_out) == ("/v1/models", len(result.body))
    assert event.routing is None


def test_a_head_has_no_body() -> None:
    made = world()
    whole = made.ask("GET", "/v1/models").one("Content-Length")
    result = made.ask("HEAD", "/v1/models")
    assert (result.status, result.body, result.one("Content-Length")) == ("200 OK", b"", whole)


@pytest.mark.parametrize("path", ["/v1/models/a/x%20y", "/v1/models/a%2Fx%20y"])
def test_one_model(path: str) -> None:
    assert json.loads(world().ask("GET", path).body)["id"] == "a/x y"


def test_an_unknown_model() -> None:
    made = world()
    result = made.ask("GET", "/v1/models/nothing")
    error = json.loads(result.body)["error"]
    assert (result.status, error["code"]) == ("404 Not Found", "model_not_found")
    assert made.event.outcome == "rejected"


@pytest.mark.parametrize(
    "path",
    [
        "/v1//models",
        "/v1/%6dodels",
        "/v1/%256dodels/a",
        "/v1/models;x",
        "/v1/MODELS",
        "/v1\\models",
    ],
)
def test_other_spellings_are_refused(path: str) -> None:
    made = world()
    result = made.ask("GET", path)
    assert json.loads(result.body)["error"]["code"] == "endpoint_not_found"
    assert made.transport.calls == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/models/ft:x"), ("GET", "/v1/modelsx"), ("GET", "/v1/files/models")],
)
def test_what_goes_upstream(method: str, path: str) -> None:
    context: Any = SimpleNamespace(
        principal=SimpleNamespace(routing=ROUTING),
        inbound=SimpleNamespace(method=method, path=path),
    )
    assert not ModelListing(Models()).is_asked_for(context)  # type: ignore[arg-type]


def test_projects_with_only_their_own_key_ask_their_upstream() -> None:
    context: Any = SimpleNamespace(
        principal=SimpleNamespace(routing=RoutingAccess(max_retries=1)),
        inbound=SimpleNamespace(method="GET", path="/v1/models"),
    )
    assert not ModelListing(Models()).is_asked_for(context)  # type: ignore[arg-type]
