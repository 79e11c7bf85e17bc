"""``/manage/mappings`` as its callers see it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.providers.records import MappingRecord, ProviderRecord, RoutingRecords
from tests.support.management_client import ABSENT, Management

FIELDS = [
    "id",
    "alias_name",
    "provider_id",
    "provider",
    "provider_model_name",
    "order_index",
    "weight",
    "is_default",
    "config",
    "source",
    "created_at",
    "updated_at",
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILE_PROVIDER = "11111111-1111-4111-8111-111111111111"
FILE_MAPPING = "33333333-3333-4333-8333-333333333333"


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


def target(model: str, **more: Any) -> dict[str, Any]:
    return {"provider": "openai", "provider_model_name": model, **more}


def test_makes_one_and_shows_it(api: Management) -> None:
    provider = api.made_provider()
    config = {"temperature": 0.7, "override": {"seed": 1}, "drop": ["user"]}
    made = api.made_mapping(provider["id"], "gpt-4", config=config, order_index=2, weight=3)
    assert list(made) == FIELDS
    assert (made["alias_name"], made["provider"]) == ("gpt-4", "openai")
    assert (made["provider_id"], made["provider_model_name"]) == (provider["id"], "gpt-4.1")
    assert (made["order_index"], made["weight"], made["is_default"]) == (2, 3, False)
    assert (made["config"], made["source"]) == (config, "api")
    assert api.call("GET", f"/mappings/{made['id']}") == made
    assert api.call("GET", "/mappings") == [made]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"alias_name": ""}, "alias_name"),
        ({"alias_name": "/a"}, "alias_name"),
        ({"alias_name": "a/"}, "alias_name"),
        ({"alias_name": "a\x00"}, "alias_name"),
        ({"alias_name": "a" * 257}, "alias_name"),
        ({"provider_model_name": None}, "provider_model_name"),
        ({"provider_model_name": " "}, "provider_model_name"),
        ({"order_index": -1}, "order_index"),
        ({"weight": "1"}, "weight"),
        ({"is_default": 1}, "is_default"),
        ({"config": "x"}, "config"),
        ({"config": {"model": "x"}}, "config.defaults"),
        ({"config": {"routing": {"timeout": 0}}}, "config.routing.timeout"),
        ({"provider_id": None}, "provider_id"),
        ({"source": "api"}, "source"),
    ],
)
def test_odd_bodies_are_refused(api: Management, change: dict[str, Any], param: str) -> None:
    provider = api.made_provider()
    body = {"alias_name": "a", "provider_id": provider["id"], "provider_model_name": "m", **change}
    api.refused("POST", "/mappings", body, 400, param)
    assert api.call("GET", "/mappings") == []


def test_what_is_required(api: Management) -> None:
    api.made_provider()
    api.refused("POST", "/mappings", target("m"), 400, "alias_name")
    body = {"alias_name": "a", "provider": "openai"}
    api.refused("POST", "/mappings", body, 400, "provider_model_name")
    body = {"alias_name": "a", "provider": "nobody", "provider_model_name": "m"}
    api.refused("POST", "/mappings", body, 404, "provider")


def test_one_target_once(api: Management) -> None:
    provider = api.made_provider()
    api.made_mapping(provider["id"])
    body = {"alias_name": "fast", **target("gpt-4.1")}
    assert api.refused("POST", "/mappings", body, 409, "provider_model_name")


def test_changes(api: Management) -> None:
    other = api.made_provider("other")
    made = api.made_mapping(api.made_provider()["id"], config={"temperature": 1, "top_p": 0.5})
    path = f"/mappings/{made['id']}"
    changed = api.call("PATCH", path, {"config": {"top_p": None}, "weight": 0})
    assert (changed["config"], changed["weight"]) == ({"temperature": 1}, 0)
    changed = api.call("PATCH", path, {"provider": "other", "alias_name": "slow"})
    assert (changed["provider_id"], changed["alias_name"]) == (other["id"], "slow")
    api.refused("PATCH", path, {}, 400)
    api.refused("PATCH", path, {"provider": "nobody"}, 404, "provider")
    api.refused("PATCH", path, {"created_at": "x"}, 400, "created_at")
    api.refused("PATCH", f"/mappings/{ABSENT}", {"weight": 1}, 404)
    api.call("DELETE", path, status=204)
    api.refused("DELETE", path, None, 404)


def test_one_default(api: Management) -> None:
    provider = api.made_provider()
    first = api.made_mapping(provider["id"], "a", is_default=True)
    api.made_mapping(provider["id"], "b", is_default=True)
    assert api.call("GET", f"/mappings/{first['id']}")["is_default"] is False


def test_lists_in_order_and_pages(api: Management) -> None:
    provider, other = api.made_provider(), api.made_provider("other")
    api.made_mapping(provider["id"], "b")
    api.made_mapping(provider["id"], "a", provider_model_name="second", order_index=1)
    api.made_mapping(other["id"], "a", provider_model_name="first")

    def models(query: str) -> list[str]:
        return [each["provider_model_name"] for each in api.call("GET", f"/mappings{query}")]

    assert models("") == ["first", "second", "gpt-4.1"]
    assert models("?alias=a") == models("?alias_name=a") == ["first", "second"]
    assert models("?alias=a*") == []
    assert models("?provider=other") == ["first"]
    assert models(f"?alias=a&provider_id={provider['id']}") == ["second"]
    page = api.call("GET", "/mappings?limit=2", raw=True)
    query = page.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    assert models(query) == ["gpt-4.1"]
    page = api.call("GET", "/mappings?provider=openai&limit=1", raw=True)
    query = page.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    assert models(query) == ["gpt-4.1"]


@pytest.mark.parametrize("alias", ["gpt-4", "org/model-7b", "claude-*", "*", "a b?", "ä/ö"])
def test_the_list_of_an_alias_at_once(api: Management, alias: str) -> None:
    api.made_provider()
    path = f"/mappings/{alias.replace(' ', '%20').replace('?', '%3F')}"
    first = api.call("PUT", path, [target("x", weight=5), target("y", config={"n": 1})])
    assert [list(each) for each in first] == [FIELDS, FIELDS]
    assert {each["alias_name"] for each in first} == {alias}
    shown = [(each["provider_model_name"], each["order_index"], each["weight"]) for each in first]
    assert shown == [("x", 0, 5), ("y", 1, 1)]
    second = api.call("PUT", path, [target("z"), target("x", alias_name=alias)])
    assert [each["provider_model_name"] for each in second] == ["z", "x"]
    assert (second[1]["id"], second[1]["weight"]) == (first[0]["id"], 1)
    assert api.call("GET", "/mappings") == second
    assert api.call("PUT", path, []) == []
    assert api.call("GET", "/mappings") == []


def test_targets_of_one_place_share_by_weight(api: Management) -> None:
    api.made_provider()
    body = [target("x", order_index=0), target("y", order_index=0), target("z", order_index=1)]
    assert [each["order_index"] for each in api.call("PUT", "/mappings/a", body)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ([1], 400, None),
        ([{"provider": "openai"}], 400, "provider_model_name"),
        ([{"provider_model_name": "m"}], 400, "provider_id"),
        ([target("m", provider="nobody")], 404, "provider"),
        ([target("m", alias_name="b")], 400, "alias_name"),
        ([target("m", id=ABSENT)], 400, "id"),
        ([target("m"), target("m")], 400, None),
        ([target("m", is_default=True), target("n", is_default=True)], 400, "is_default"),
        ([target("m"), target("n", config={"model": 1})], 400, "[1].config.defaults"),
        ([target(str(number)) for number in range(101)], 400, None),
    ],
)
def test_odd_lists_change_nothing(
    api: Management, body: Any, status: int, param: str | None
) -> None:
    before = api.made_mapping(api.made_provider()["id"], "a")
    announced = len(api.announced)
    api.refused("PUT", "/mappings/a", body, status, param)
    assert api.call("GET", "/mappings") == [before]
    assert len(api.announced) == announced


def test_every_change_is_announced(api: Management) -> None:
    made = api.made_mapping(api.made_provider()["id"])
    api.call("PATCH", f"/mappings/{made['id']}", {"weight": 2})
    api.call("PUT", "/mappings/fast", [target("x")])
    kept = api.call("GET", "/mappings")[0]
    api.call("DELETE", f"/mappings/{kept['id']}", status=204)
    assert api.announced == ["routing"] * 5


def test_one_of_the_file_is_shown_and_not_changed(api: Management) -> None:
    made = api.made_mapping(api.made_provider()["id"], "a")
    provider = ProviderRecord(
        FILE_PROVIDER, "file", "openai", "https://f.example", {}, True, False, NOW, NOW, "file"
    )
    record = MappingRecord(FILE_MAPPING, "b", FILE_PROVIDER, "m", 0, 1, False, {}, NOW, NOW, "file")
    api.file = RoutingRecords((provider,), (), (record,))
    shown = api.call("GET", "/mappings")
    assert [(each["alias_name"], each["provider"], each["source"]) for each in shown] == [
        ("a", "openai", "api"),
        ("b", "file", "file"),
    ]
    assert api.call("GET", "/mappings?alias=b") == shown[1:]
    path = f"/mappings/{FILE_MAPPING}"
    assert api.call("GET", path) == shown[1]
    for method, body in (("PATCH", {"weight": 2}), ("DELETE", None)):
        assert api.refused(method, path, body, 409)["code"] == "conflict"
    api.refused("PUT", "/mappings/b", [target("x")], 409, "alias_name")
    api.refused("POST", "/mappings", {"alias_name": "b", **target("x")}, 409, "alias_name")
    api.refused("PATCH", f"/mappings/{made['id']}", {"alias_name": "b"}, 409, "alias_name")
    moved = api.call("PATCH", f"/mappings/{made['id']}", {"provider": "file"})
    assert moved["provider_id"] == FILE_PROVIDER
    api.file = RoutingRecords()
    assert api.call("GET", "/mappings")[0]["provider"] is None, "the file lost its provider"
