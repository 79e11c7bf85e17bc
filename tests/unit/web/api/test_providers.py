"""``/manage/providers`` as its callers see it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.providers.records import MappingRecord, ProviderRecord, RoutingRecords
from proxy.providers.status import KeyTest, ProviderStatus
from tests.support.management_client import ABSENT, Management

FIELDS = [
    "id",
    "name",
    "provider_type",
    "base_url",
    "config",
    "is_active",
    "is_default",
    "source",
    "keys_count",
    "breaker",
    "created_at",
    "updated_at",
]
BODY = {"name": "openai", "provider_type": "openai", "base_url": "https://api.openai.com/v1"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILE_ID = "11111111-1111-4111-8111-111111111111"


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


def in_file(name: str = "bedrock", **more: Any) -> ProviderRecord:
    values = {"provider_type": "custom", "base_url": "https://b.example", "config": {}, **more}
    return ProviderRecord(
        FILE_ID,
        name,
        **values,
        is_active=True,
        is_default=False,
        created_at=NOW,
        updated_at=NOW,
        source="file",
    )


def test_makes_one_and_shows_it(api: Management) -> None:
    made = api.made_provider(" eu ", config={"timeout": 30, "max_retries": 0}, is_active=False)
    assert list(made) == FIELDS
    assert (made["name"], made["provider_type"]) == ("eu", "openai")
    assert made["base_url"] == "https://api.example.com/v1", "as it was given"
    assert made["config"] == {"timeout": 30, "max_retries": 0}
    assert (made["is_active"], made["is_default"]) == (False, False)
    assert (made["source"], made["keys_count"], made["breaker"]) == ("api", 0, "closed")
    assert made["created_at"].endswith("Z")
    assert api.call("GET", f"/providers/{made['id']}") == made
    assert api.call("GET", "/providers") == [made]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": None}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": "*"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "é"}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"provider_type": "bedrock"}, "provider_type"),
        ({"provider_type": ["openai"]}, "provider_type"),
        ({"base_url": "api.openai.com"}, "base_url"),
        ({"base_url": "ftp://api.openai.com"}, "base_url"),
        ({"base_url": "https://user:pw@api.openai.com"}, "base_url"),
        ({"base_url": "https://api.openai.com/?key=1"}, "base_url"),
        ({"base_url": "https://api.openai.com/#x"}, "base_url"),
        ({"base_url": "http://127.0.0.1:11434"}, "base_url"),
        ({"base_url": "http://169.254.169.254"}, "base_url"),
        ({"config": []}, "config"),
        ({"config": {"timeuot": 1}}, "config"),
        ({"config": {"timeout": 0}}, "config.timeout"),
        ({"config": {"api_version": "v1"}}, "config.api_version"),
        ({"config": {"models": ["x" * 300]}}, "config.models"),
        ({"config": {"models": ["x" * 250] * 300}}, "config"),
        ({"is_active": 1}, "is_active"),
        ({"is_default": "yes"}, "is_default"),
        ({"keys": []}, "keys"),
        ({"id": ABSENT}, "id"),
    ],
)
def test_odd_bodies_are_refused(api: Management, change: dict[str, Any], param: str) -> None:
    error = api.refused("POST", "/providers", {**BODY, **change}, 400, param)
    assert error["code"] == "invalid_request"
    assert api.call("GET", "/providers") == []
    assert api.announced == []


@pytest.mark.parametrize("field", BODY)
def test_what_is_required(api: Management, field: str) -> None:
    body = {name: value for name, value in BODY.items() if name != field}
    api.refused("POST", "/providers", body, 400, field)


def test_private_addresses_where_they_are_meant(api: Management) -> None:
    body = {**BODY, "provider_type": "ollama", "base_url": "http://127.0.0.1:11434"}
    made = api.call("POST", "/providers", {**body, "config": {"allow_private": True}}, 201)
    path = f"/providers/{made['id']}"
    api.refused("PATCH", path, {"config": {"allow_private": None}}, 400, "base_url")
    changed = api.call("PATCH", path, {"config": {"timeout": 5}})
    assert changed["config"] == {"allow_private": True, "timeout": 5}
    public = {"base_url": "https://ollama.example.com", "config": {"allow_private": None}}
    assert api.call("PATCH", path, public)["config"] == {"timeout": 5}
    api.refused("PATCH", path, {"base_url": "http://10.0.0.1"}, 400, "base_url")


def test_a_change_of_config_is_a_merge_patch(api: Management) -> None:
    made = api.made_provider(config={"timeout": 30, "max_retries": 2, "models": ["a", "b"]})
    path = f"/providers/{made['id']}"
    changed = api.call("PATCH", path, {"config": {"max_retries": None, "models": ["c"]}})
    assert changed["config"] == {"timeout": 30, "models": ["c"]}
    assert api.call("GET", path) == changed


def test_a_config_must_fit_the_type_after_the_change(api: Management) -> None:
    made = api.made_provider(provider_type="azure", config={"api_version": "v1"})
    path = f"/providers/{made['id']}"
    api.refused("PATCH", path, {"provider_type": "openai"}, 400, "config.api_version")
    changed = {"provider_type": "openai", "config": {"api_version": None}}
    assert api.call("PATCH", path, changed)["config"] == {}


def test_odd_changes_are_refused(api: Management) -> None:
    made = api.made_provider()
    path = f"/providers/{made['id']}"
    api.refused("PATCH", path, {}, 400)
    api.refused("PATCH", path, {"keys_count": 1}, 400, "keys_count")
    api.refused("PATCH", path, {"name": "a/b"}, 400, "name")
    api.refused("PATCH", f"/providers/{ABSENT}", {"name": "b"}, 404)
    api.refused("PATCH", "/providers/openai", {"name": "b"}, 404)
    assert api.call("GET", path) == made


def test_names_are_unique(api: Management) -> None:
    api.made_provider("a")
    second = api.made_provider("b")
    assert api.refused("POST", "/providers", {**BODY, "name": "a"}, 409, "name")
    assert api.refused("PATCH", f"/providers/{second['id']}", {"name": "a"}, 409, "name")


def test_lists_by_name_in_pages(api: Management) -> None:
    for name in ("c", "a", "b"):
        api.made_provider(name)
    page = api.call("GET", "/providers?limit=2", raw=True)
    assert [each["name"] for each in page.get_json()] == ["a", "b"]
    target = page.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    assert [each["name"] for each in api.call("GET", f"/providers{target}")] == ["c"]
    api.refused("GET", "/providers?page=1", None, 400, "page")


def test_one_in_use_stays(api: Management) -> None:
    made = api.made_provider()
    mapping = api.made_mapping(made["id"], "gpt-4")
    error = api.refused("DELETE", f"/providers/{made['id']}", None, 409)
    assert error["code"] == "conflict"
    assert "`gpt-4`" in error["message"]
    api.call("DELETE", f"/mappings/{mapping['id']}", status=204)
    api.made_key(made["id"])
    api.call("DELETE", f"/providers/{made['id']}", status=204)
    assert (api.call("GET", "/providers"), api.call("GET", "/keys")) == ([], [])
    api.refused("DELETE", f"/providers/{made['id']}", None, 404)


def test_keys_are_counted_and_breakers_shown(api: Management) -> None:
    first, second = api.made_provider("a"), api.made_provider("b")
    api.made_key(first["id"], "x")
    api.made_key(first["id"], "y")
    api.breakers[second["id"]] = ProviderStatus("open", 0.8, "HTTP 500")
    shown = api.call("GET", "/providers")
    assert [each["keys_count"] for each in shown] == [2, 0]
    assert [each["breaker"] for each in shown] == ["closed", "open"]
    assert [api.call("GET", f"/providers/{each['id']}") for each in shown] == shown


def test_every_change_is_announced(api: Management) -> None:
    made = api.made_provider()
    api.call("PATCH", f"/providers/{made['id']}", {"is_active": False})
    api.call("DELETE", f"/providers/{made['id']}", status=204)
    assert api.announced == ["routing"] * 3


def test_the_test_shows_each_key(api: Management) -> None:
    made = api.made_provider()
    path = f"/providers/{made['id']}/test"
    assert api.call("POST", path) == {"provider_id": made["id"], "results": []}
    api.key_tests = [
        KeyTest("k1", "good", True, 200, 12.5, models_count=3),
        KeyTest("k2", "bad", False, None, 10000.0, error="no response within 10 s"),
    ]
    good = {"key_id": "k1", "name": "good", "ok": True, "status": 200, "duration_ms": 12.5}
    bad = {"key_id": "k2", "name": "bad", "ok": False, "status": None, "duration_ms": 10000.0}
    assert api.call("POST", path)["results"] == [
        {**good, "models_count": 3, "error": None},
        {**bad, "models_count": None, "error": "no response within 10 s"},
    ]
    api.refused("POST", f"/providers/{ABSENT}/test", None, 404)
    assert api.announced == ["routing"], "of the creation alone"


def test_one_of_the_file_is_shown_and_not_changed(api: Management) -> None:
    api.made_provider("a")
    api.made_provider("c")
    api.file = RoutingRecords(providers=(in_file(),))
    assert [(each["name"], each["source"]) for each in api.call("GET", "/providers")] == [
        ("a", "api"),
        ("bedrock", "file"),
        ("c", "api"),
    ]
    page = api.call("GET", f"/providers?limit=1&after={FILE_ID}")
    assert [each["name"] for each in page] == ["c"]
    path = f"/providers/{FILE_ID}"
    assert api.call("GET", path)["source"] == "file"
    for method, body in (("PATCH", {"is_active": False}), ("DELETE", None)):
        assert api.refused(method, path, body, 409)["code"] == "conflict"
    api.refused("POST", "/providers", {**BODY, "name": "bedrock"}, 409, "name")
    api.refused("GET", f"/providers?after={ABSENT}", None, 400, "after")


def test_one_that_the_file_uses_stays(api: Management) -> None:
    made = api.made_provider()
    api.file = RoutingRecords(
        mappings=(
            MappingRecord(FILE_ID, "gpt-4", made["id"], "m", 0, 1, False, {}, NOW, NOW, "file"),
        )
    )
    error = api.refused("DELETE", f"/providers/{made['id']}", None, 409)
    assert "`gpt-4`" in error["message"]
