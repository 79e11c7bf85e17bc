"""Policy fields through the management API, on projects and on tokens."""

from typing import Any

import pytest

from proxy.policy.fields import FIELDS, fields_of
from tests.support.management_client import Management

#: As sent, and as shown.
GIVEN: dict[str, tuple[Any, Any]] = {
    "allowed_methods": (["post", "GET", "POST"], ["POST", "GET"]),
    "allowed_endpoints": (["/v1/models", "/v1/files/**"], ["/v1/models", "/v1/files/**"]),
    "allowed_models": (["gpt-4o*", ""], ["gpt-4o*", ""]),
    "allowed_params": ({"n": ["1"], "stop": []}, {"n": ["1"], "stop": []}),
    "allowed_ips": (["192.0.2.7", "10.0.0.0/8"], ["192.0.2.7/32", "10.0.0.0/8"]),
    "allowed_origins": (["https://A.test:443"], ["https://a.test"]),
    "required_headers": (["X-Team"], {"X-Team": ["*"]}),
    "forwarded_headers": ([], []),
    "rate_limit_rpm": (60, 60),
    "rate_limit_tpm": (100_000, 100_000),
    "max_concurrent": (5, 5),
    "max_tokens_total": (2**63 - 1, 2**63 - 1),
    "can_mint": (True, True),
    "on_disconnect": ("drain", "drain"),
    "on_revoke": ("finish", "finish"),
    "cut_in_flight": (True, True),
    "stream_usage": ("inject", "inject"),
    "base_url": ("https://eu.example/v1", "https://eu.example/v1"),
    "providers": (["*"], ["*"]),
    "max_retries": (2, 2),
    "breaker": ("on", "on"),
    "cache": ("opt_in", "opt_in"),
    "cache_scope": ("token", "token"),
    "coalesce": ("on", "on"),
    "idempotency": ("on", "on"),
}


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


class Place:
    """A project, or a token: made, changed and read in the same way."""

    def __init__(self, api: Management, kind: str) -> None:
        self.api = api
        self.fields = fields_of("project" if kind == "project" else "token")
        self.root = f"/{kind}s"
        self.base: dict[str, Any] = {"name": "made", "api_key": "sk-proj-0123456789abcdef"}
        if kind == "token":
            self.base = {"project_id": api.project()["id"], "duration_minutes": 5}

    def make(self, **more: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.api.call("POST", self.root, {**self.base, **more}, 201)
        return made

    def change(self, made: dict[str, Any], **more: Any) -> dict[str, Any]:
        path = f"{self.root}/{made['id']}"
        changed: dict[str, Any] = self.api.call("PATCH", path, more)
        assert self.api.call("GET", path) == changed
        return changed


@pytest.fixture(params=["project", "token"])
def place(request: pytest.FixtureRequest, api: Management) -> Place:
    return Place(api, request.param)


def test_every_field_is_tried() -> None:
    assert GIVEN.keys() == FIELDS.keys()


def test_all_at_once_shown_and_taken_away(place: Place) -> None:
    bare = place.make()
    shown = {name: bare[name] for name in place.fields}
    assert shown == {name: field.default for name, field in place.fields.items()}
    sent = {name: GIVEN[name][0] for name in place.fields}
    expected = {name: GIVEN[name][1] for name in place.fields}
    changed = place.change(bare, **sent)
    assert {name: changed[name] for name in place.fields} == expected
    changed = place.change(bare, **dict.fromkeys(sent))
    assert {name: changed[name] for name in place.fields} == shown
    place.base |= {"name": "second"}
    made = place.make(**sent)
    assert {name: made[name] for name in place.fields} == expected


def test_fields_change_one_by_one(place: Place) -> None:
    made = place.make(allowed_models=["a"], rate_limit_rpm=1)
    changed = place.change(made, rate_limit_rpm=2)
    assert (changed["allowed_models"], changed["rate_limit_rpm"]) == (["a"], 2)
    changed = place.change(made, allowed_models=None)
    assert (changed["allowed_models"], changed["rate_limit_rpm"]) == (None, 2)
    changed = place.change(made, name="other")
    assert changed["rate_limit_rpm"] == 2


def test_what_is_stored_is_understood(place: Place) -> None:
    made = place.make(**{name: GIVEN[name][0] for name in place.fields})
    store: Any = place.api.projects if place.root == "/projects" else place.api.tokens
    stored = store.get(made["id"]).policy
    assert stored == {name: GIVEN[name][1] for name in place.fields}
    for name, field in place.fields.items():
        assert field.read(name, stored[name]) == stored[name]


def test_fields_of_the_other_place_are_refused(place: Place) -> None:
    made = place.make()
    others = FIELDS.keys() - place.fields.keys()
    assert others
    for name in others:
        body = {name: GIVEN[name][0]}
        place.api.refused("PATCH", f"{place.root}/{made['id']}", body, 400, name)
        base = {**place.base, "name": "second"}
        place.api.refused("POST", place.root, {**base, **body}, 400, name)
        place.api.refused("POST", place.root, {**base, name: None}, 400, name)


def test_odd_values_change_nothing(place: Place) -> None:
    made = place.make(allowed_models=["a"])
    path = f"{place.root}/{made['id']}"
    for name in place.fields:
        body = {"allowed_models": ["b"], name: {"": [0]}}
        error = place.api.refused("PATCH", path, body, 400, name)
        assert f"`{name}`" in error["message"]
    assert place.api.call("GET", path)["allowed_models"] == ["a"]


def test_a_token_may_be_wider_than_its_project(api: Management) -> None:
    project = api.project(allowed_models=["gpt-4o-mini"])
    token = api.token(project["id"], allowed_models=["*"])
    assert token["allowed_models"] == ["*"]


def test_the_largest_document_fits(place: Place) -> None:
    """What the bounds allow is taken by the management API, whole."""
    entries = [f"{number:03}" + "m" * 253 for number in range(100)]
    large = {f"p{number}": entries[:8] for number in range(50)}
    made = place.make(allowed_models=entries, allowed_params=large)
    assert place.api.call("GET", f"{place.root}/{made['id']}")["allowed_params"] == large
