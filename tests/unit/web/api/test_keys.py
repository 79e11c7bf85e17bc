"""``/manage/keys`` as its callers see it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.providers.records import (
    ProviderKeyRecord,
    ProviderKeySecret,
    ProviderRecord,
    RoutingRecords,
)
from proxy.store.key_health import KeyReport
from tests.support.management_client import ABSENT, UPSTREAM_KEY, Management

FIELDS = [
    "id",
    "provider_id",
    "provider",
    "name",
    "value",
    "weight",
    "models",
    "is_active",
    "source",
    "health",
    "cooling_until",
    "last_status",
    "last_used_at",
    "success_count",
    "failure_count",
    "created_at",
    "updated_at",
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILE_PROVIDER = "11111111-1111-4111-8111-111111111111"
FILE_KEY = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


def test_makes_one_and_shows_only_the_mask(api: Management) -> None:
    provider = api.made_provider()
    made = api.made_key(provider["id"], " team-a ", weight=0, models=["gpt-*", "o*"])
    assert list(made) == FIELDS
    assert (made["name"], made["value"]) == ("team-a", "sk-proj-...cdef")
    assert (made["provider_id"], made["provider"]) == (provider["id"], "openai")
    assert (made["weight"], made["models"], made["is_active"]) == (0, ["gpt-*", "o*"], True)
    assert (made["health"], made["cooling_until"], made["last_status"]) == ("healthy", None, None)
    assert (made["success_count"], made["failure_count"], made["source"]) == (0, 0, "api")
    assert api.call("GET", f"/keys/{made['id']}") == made
    assert api.call("GET", "/keys") == [made]
    assert UPSTREAM_KEY not in api.call("GET", "/keys", raw=True).get_data(as_text=True)


def test_the_provider_by_its_name(api: Management) -> None:
    provider = api.made_provider("eu")
    body = {"name": "a", "value": UPSTREAM_KEY}
    assert api.call("POST", "/keys", {**body, "provider": "eu"}, 201)["provider"] == "eu"
    both = {**body, "name": "b", "provider": "eu", "provider_id": provider["id"].upper()}
    api.call("POST", "/keys", both, 201)
    other = api.made_provider("us")
    api.refused("POST", "/keys", {**both, "provider_id": other["id"]}, 400, "provider_id")
    api.refused("POST", "/keys", {**body, "provider": "EU"}, 404, "provider")
    api.refused("POST", "/keys", {**body, "provider_id": ABSENT}, 404, "provider_id")
    api.refused("POST", "/keys", {**body, "provider_id": "eu"}, 404, "provider_id")
    api.refused("POST", "/keys", {**body, "provider_id": 1}, 400, "provider_id")
    api.refused("POST", "/keys", body, 400, "provider_id")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"value": None}, "value"),
        ({"value": ""}, "value"),
        ({"value": "s3cret key"}, "value"),
        ({"value": "s3cret\r\nX-Evil: 1"}, "value"),
        ({"value": "sk-proj-...cdef"}, "value"),
        ({"value": "********"}, "value"),
        ({"value": "k" * 4097}, "value"),
        ({"weight": -1}, "weight"),
        ({"weight": 1.5}, "weight"),
        ({"weight": True}, "weight"),
        ({"models": "gpt-*"}, "models"),
        ({"models": [""]}, "models"),
        ({"is_active": "no"}, "is_active"),
        ({"health": "healthy"}, "health"),
        ({"mask": "x"}, "mask"),
    ],
)
def test_odd_bodies_are_refused(api: Management, change: dict[str, Any], param: str) -> None:
    provider = api.made_provider()
    body = {"provider_id": provider["id"], "name": "a", "value": UPSTREAM_KEY, **change}
    error = api.refused("POST", "/keys", body, 400, param)
    assert "s3cret" not in error["message"]
    assert api.call("GET", "/keys") == []


@pytest.mark.parametrize("field", ["name", "value"])
def test_what_is_required(api: Management, field: str) -> None:
    body = {"provider_id": api.made_provider()["id"], "name": "a", "value": UPSTREAM_KEY}
    del body[field]
    api.refused("POST", "/keys", body, 400, field)


def test_a_new_value_keeps_the_id(api: Management) -> None:
    made = api.made_key(api.made_provider()["id"])
    path = f"/keys/{made['id']}"
    changed = api.call("PATCH", path, {"value": "sk-proj-zzzzzzzzzzzzzzzzzzzz-9876"})
    assert (changed["id"], changed["value"]) == (made["id"], "sk-proj-...9876")
    changed = api.call("PATCH", path, {"weight": 3, "models": [], "is_active": False})
    assert (changed["weight"], changed["models"], changed["is_active"]) == (3, [], False)
    api.refused("PATCH", path, {"value": changed["value"]}, 400, "value")
    api.refused("PATCH", path, {}, 400)
    api.refused("PATCH", path, {"provider_id": made["provider_id"]}, 400, "provider_id")
    api.refused("PATCH", f"/keys/{ABSENT}", {"weight": 1}, 404)


def test_names_are_unique_within_a_provider(api: Management) -> None:
    first, second = api.made_provider("a"), api.made_provider("b")
    api.made_key(first["id"])
    api.made_key(second["id"])
    body = {"provider_id": first["id"], "name": "team-a", "value": UPSTREAM_KEY}
    assert api.refused("POST", "/keys", body, 409, "name")["code"] == "conflict"


def test_lists_by_name_in_pages_and_by_provider(api: Management) -> None:
    first, second = api.made_provider("a"), api.made_provider("b")
    for name in ("c", "a", "b"):
        api.made_key(first["id"], name)
    api.made_key(second["id"], "d")
    assert [each["name"] for each in api.call("GET", "/keys")] == ["a", "b", "c", "d"]
    page = api.call("GET", "/keys?provider=a&limit=2", raw=True)
    assert [each["name"] for each in page.get_json()] == ["a", "b"]
    target = page.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    assert [each["name"] for each in api.call("GET", f"/keys{target}")] == ["c"]
    by_id = api.call("GET", f"/keys?provider_id={second['id']}")
    assert [(each["name"], each["provider"]) for each in by_id] == [("d", "b")]
    api.refused("GET", "/keys?provider=nobody", None, 404, "provider")


def test_deletes(api: Management) -> None:
    made = api.made_key(api.made_provider()["id"])
    api.call("DELETE", f"/keys/{made['id']}", status=204)
    api.refused("DELETE", f"/keys/{made['id']}", None, 404)
    assert api.call("GET", "/keys") == []


def test_health_is_the_worst_of_the_models(api: Management) -> None:
    made = api.made_key(api.made_provider()["id"])
    path = f"/keys/{made['id']}"
    api.key_health.write([KeyReport(made["id"], "a", status=200, success_count=5)])
    shown = api.call("GET", path)
    assert (shown["health"], shown["success_count"], shown["last_status"]) == ("healthy", 5, 200)
    api.key_health.write([KeyReport(made["id"], "b", cooling=60, status=429, failure_count=2)])
    shown = api.call("GET", path)
    assert (shown["health"], shown["failure_count"], shown["last_status"]) == ("cooling", 2, 429)
    until = shown["cooling_until"]
    api.key_health.write([KeyReport(made["id"], "c", cooling=900, status=401, failure_count=1)])
    shown = api.call("GET", path)
    assert (shown["health"], shown["failure_count"]) == ("failed", 3)
    assert shown["cooling_until"] > until
    assert api.call("GET", "/keys") == [shown]


def test_a_cooldown_that_is_over_is_none(api: Management) -> None:
    made = api.made_key(api.made_provider()["id"])
    api.key_health.write([KeyReport(made["id"], "a", cooling=0, status=401, failure_count=1)])
    shown = api.call("GET", f"/keys/{made['id']}")
    assert (shown["health"], shown["cooling_until"], shown["last_status"]) == ("healthy", None, 401)


def test_reset_ends_cooldowns(api: Management) -> None:
    made = api.made_key(api.made_provider()["id"])
    api.key_health.write([KeyReport(made["id"], "a", cooling=900, status=401, failure_count=1)])
    shown = api.call("POST", f"/keys/{made['id']}/reset")
    assert (shown["health"], shown["cooling_until"], shown["failure_count"]) == ("healthy", None, 1)
    api.refused("POST", f"/keys/{ABSENT}/reset", None, 404)


def test_every_change_is_announced(api: Management) -> None:
    made = api.made_key(api.made_provider()["id"])
    api.call("PATCH", f"/keys/{made['id']}", {"weight": 2})
    api.call("POST", f"/keys/{made['id']}/reset")
    api.call("DELETE", f"/keys/{made['id']}", status=204)
    assert api.announced == ["routing"] * 5


def test_one_of_the_file_is_shown_and_not_changed(api: Management) -> None:
    api.made_key(api.made_provider("a")["id"], "k2")
    provider = ProviderRecord(
        FILE_PROVIDER, "file", "openai", "https://f.example", {}, True, False, NOW, NOW, "file"
    )
    record = ProviderKeyRecord(
        FILE_KEY, FILE_PROVIDER, "k1", "sk-fil...0000", 1, (), True, NOW, NOW, "file"
    )
    api.file = RoutingRecords((provider,), (ProviderKeySecret(record, "sk-file-secret"),))
    shown = api.call("GET", "/keys")
    assert [(each["name"], each["provider"], each["source"]) for each in shown] == [
        ("k1", "file", "file"),
        ("k2", "a", "api"),
    ]
    assert [each["name"] for each in api.call("GET", f"/keys?after={FILE_KEY}")] == ["k2"]
    assert [each["name"] for each in api.call("GET", "/keys?provider=file")] == ["k1"]
    path = f"/keys/{FILE_KEY}"
    assert "sk-file-secret" not in api.call("GET", path, raw=True).get_data(as_text=True)
    for method, body in (("PATCH", {"weight": 2}), ("DELETE", None)):
        assert api.refused(method, path, body, 409)["code"] == "conflict"
    body = {"provider": "file", "name": "k3", "value": UPSTREAM_KEY}
    assert api.refused("POST", "/keys", body, 409)["code"] == "conflict"
    api.key_health.write([KeyReport(FILE_KEY, "a", cooling=900, status=429, failure_count=1)])
    assert api.call("GET", path)["health"] == "cooling"
    assert api.call("POST", f"{path}/reset")["health"] == "healthy"
