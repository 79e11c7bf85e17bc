"""``/manage/tokens`` as its callers see it."""

from typing import Any

import pytest

from proxy.crypto import tokens
from proxy.policy.fields import fields_of
from tests.support.management_client import ABSENT, UPSTREAM_KEY, Management


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


FIELDS = [
    "id",
    "token",
    "name",
    "project_id",
    "parent_id",
    "expires_at",
    "is_active",
    "revoked_at",
    "max_requests",
    *fields_of("token"),
    "request_count",
    "tokens_used",
    "cache_hit_count",
    "last_used_at",
    "created_at",
]


def test_the_secret_is_shown_once(api: Management) -> None:
    project = api.project()
    body = {"project_id": project["id"].upper(), "duration_minutes": 5, "name": "ci"}
    response = api.call("POST", "/tokens", body, 201, raw=True)
    made = response.get_json()
    assert response.headers["Cache-Control"] == "no-store"
    assert list(made) == FIELDS
    secret = made["token"]
    assert tokens.is_well_formed(secret)
    shown = api.call("GET", f"/tokens/{made['id']}")
    assert shown == {**made, "token": tokens.mask_token(secret)}
    assert api.call("GET", "/tokens") == [shown]
    assert made["expires_at"] == "2030-01-01T00:05:00.000000Z"
    assert (made["name"], made["project_id"]) == ("ci", project["id"])
    grant = api.grants.find(tokens.hash_token(secret))
    assert grant is not None
    assert (grant.token.id, grant.upstream_key) == (made["id"], UPSTREAM_KEY)


@pytest.mark.parametrize(
    ("lifetime", "expires_at"),
    [
        ({"duration_minutes": 1}, "2030-01-01T00:01:00.000000Z"),
        ({"duration_minutes": 525600}, "2031-01-01T00:00:00.000000Z"),
        ({"duration_hours": 24}, "2030-01-02T00:00:00.000000Z"),
        ({"expires_at": "2030-06-01T02:00:00.25+02:00"}, "2030-06-01T00:00:00.250000Z"),
        ({"expires_at": "2031-01-01T00:00:00Z"}, "2031-01-01T00:00:00.000000Z"),
    ],
)
def test_lifetimes(api: Management, lifetime: dict[str, Any], expires_at: str) -> None:
    body = {"project_id": api.project()["id"], **lifetime}
    assert api.call("POST", "/tokens", body, 201)["expires_at"] == expires_at


@pytest.mark.parametrize(
    ("lifetime", "param"),
    [
        ({}, "duration_minutes"),
        ({"duration_minutes": 1, "duration_hours": 1}, "duration_minutes"),
        ({"duration_minutes": None, "expires_at": "2030-06-01T00:00:00Z"}, "duration_minutes"),
        ({"duration_minutes": 0}, "duration_minutes"),
        ({"duration_minutes": -1}, "duration_minutes"),
        ({"duration_minutes": 525601}, "duration_minutes"),
        ({"duration_minutes": "60"}, "duration_minutes"),
        ({"duration_minutes": 60.5}, "duration_minutes"),
        ({"duration_minutes": True}, "duration_minutes"),
        ({"duration_hours": 8761}, "duration_hours"),
        ({"expires_at": "2029-12-31T23:59:59Z"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2031-01-01T00:00:00.000001Z"}, "expires_at"),
        ({"expires_at": "2030-06-01T00:00:00"}, "expires_at"),
        ({"expires_at": None}, "expires_at"),
    ],
)
def test_other_lifetimes_are_refused(api: Management, lifetime: dict[str, Any], param: str) -> None:
    body = {"project_id": api.project()["id"], **lifetime}
    api.refused("POST", "/tokens", body, 400, param)
    assert api.call("GET", "/tokens") == []


@pytest.mark.parametrize(
    ("value", "stored"), [(0, None), (None, None), (1, 1), (2**63 - 1, 2**63 - 1)]
)
def test_max_requests(api: Management, value: int | None, stored: int | None) -> None:
    made = api.token(api.project()["id"], max_requests=value)
    assert made["max_requests"] == stored
    assert api.token(made["project_id"])["max_requests"] is None
    changed = api.call("PATCH", f"/tokens/{made['id']}", {"max_requests": 7})
    assert changed["max_requests"] == 7
    changed = api.call("PATCH", f"/tokens/{made['id']}", {"max_requests": value})
    assert changed["max_requests"] == stored


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_requests": -1}, "max_requests"),
        ({"max_requests": 2**63}, "max_requests"),
        ({"max_requests": 10**30}, "max_requests"),
        ({"max_requests": "5"}, "max_requests"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"project_id": 5}, "project_id"),
        ({"allowed_model": ["x"]}, "allowed_model"),
        ({"token": "sk-" + "a" * 22}, "token"),
    ],
)
def test_odd_bodies_are_refused(api: Management, more: dict[str, Any], param: str) -> None:
    body = {"project_id": api.project()["id"], "duration_minutes": 5, **more}
    api.refused("POST", "/tokens", body, 400, param)


def test_needs_a_project_that_is_active(api: Management) -> None:
    api.refused("POST", "/tokens", {"duration_minutes": 5}, 400, "project_id")
    for absent in (ABSENT, "x"):
        body = {"project_id": absent, "duration_minutes": 5}
        assert api.call("POST", "/tokens", body, 404)["error"]["code"] == "not_found"
    project = api.project()
    api.call("DELETE", f"/projects/{project['id']}", status=204)
    body = {"project_id": project["id"], "duration_minutes": 5}
    assert api.call("POST", "/tokens", body, 403)["error"]["code"] == "project_inactive"


def test_lists_filtered_and_in_pages(api: Management) -> None:
    one, two = api.project("one")["id"], api.project("two")["id"]
    made = [api.token(project)["id"] for project in (one, two, one, one)]
    api.call("DELETE", f"/tokens/{made[2]}", status=204)

    def found(query: str) -> list[int]:
        return [made.index(token["id"]) for token in api.call("GET", f"/tokens{query}")]

    assert found("") == [3, 2, 1, 0]
    assert found(f"?project_id={one}") == found(f"/?projectId={one.upper()}") == [3, 2, 0]
    assert found(f"?projectId={one}&active=true") == [3, 0]
    assert found("?active=0") == [2]
    assert found(f"?project_id={ABSENT}") == []
    page = api.call("GET", f"/tokens?limit=2&projectId={one}", raw=True)
    target = page.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    assert found(target) == [0]
    api.refused("GET", f"/tokens?project_id={one}&projectId={two}", None, 400, "projectId")
    api.refused("GET", "/tokens?project_id=x", None, 400, "project_id")
    api.refused("GET", "/tokens?active=maybe", None, 400, "active")
    api.refused("GET", "/tokens?project=x", None, 400, "project")


def test_changes(api: Management) -> None:
    made = api.token(api.project()["id"], name="a", max_requests=5)
    path = f"/tokens/{made['id']}"
    masked = {**made, "token": tokens.mask_token(made["token"])}
    assert api.call("PATCH", path, {"name": None}) == {**masked, "name": None}
    later = "2030-02-01T00:00:00.000000Z"
    assert api.call("PATCH", path, {"expires_at": later})["expires_at"] == later
    gone = api.call("PATCH", path + "/", {"is_active": False})
    assert gone["is_active"] is False
    assert gone["revoked_at"] is not None
    assert api.call("PATCH", path, {"is_active": False})["revoked_at"] == gone["revoked_at"]
    back = api.call("PATCH", path, {"is_active": True, "name": "b"})
    assert (back["is_active"], back["revoked_at"], back["name"]) == (True, None, "b")
    api.refused("PATCH", path, {}, 400)
    api.refused("PATCH", path, {"is_active": None}, 400, "is_active")
    api.refused("PATCH", path, {"max_requests": -1}, 400, "max_requests")
    api.refused("PATCH", path, {"expires_at": "2029-01-01T00:00:00Z"}, 400, "expires_at")
    api.refused("PATCH", path, {"duration_minutes": 5}, 400, "duration_minutes")
    api.refused("PATCH", path, {"project_id": ABSENT}, 400, "project_id")


def test_revokes_by_id_and_by_secret_as_often_as_one_likes(api: Management) -> None:
    made = api.token(api.project()["id"])
    api.call("DELETE", "/tokens", {"token": made["token"]}, 204)
    first = api.call("GET", f"/tokens/{made['id']}")
    assert first["is_active"] is False
    api.call("DELETE", "/tokens/", {"token": made["token"]}, 204)
    api.call("DELETE", f"/tokens/{made['id']}", status=204)
    assert api.call("GET", f"/tokens/{made['id']}") == first


def test_revoking_needs_a_whole_secret(api: Management) -> None:
    api.call("DELETE", "/tokens", {"token": tokens.mint().secret}, 404)
    for bad in ({}, {"token": 5}, {"token": "sk-abcd...wxyz"}, {"token": ""}):
        api.refused("DELETE", "/tokens", bad, 400, "token")
    api.refused("DELETE", "/tokens", {"id": ABSENT}, 400, "id")
    secret = "sk-very-secret-but-malformed"
    response = api.call("DELETE", "/tokens", {"token": secret}, 400, raw=True)
    assert secret not in response.get_data(as_text=True)


@pytest.mark.parametrize("token_id", [ABSENT, "x", "sk-" + "a" * 22])
def test_what_is_not_there(api: Management, token_id: str) -> None:
    path = f"/tokens/{token_id}"
    assert api.call("GET", path, status=404)["error"]["code"] == "not_found"
    api.call("PATCH", path, {"name": "x"}, 404)
    api.call("DELETE", path, status=404)


def test_children_are_found_by_their_parent(api: Management) -> None:
    project = api.project()
    parent, stranger = api.token(project["id"]), api.token(project["id"])
    child = api.tokens.create(
        tokens.new_token_id(),
        project["id"],
        "c" * 64,
        "mask",
        api.tokens.get(parent["id"]).expires_at,
        lineage=[parent["id"]],
    )
    (shown,) = api.call("GET", f"/tokens?parent_id={parent['id'].upper()}")
    assert (shown["id"], shown["parent_id"]) == (child.id, parent["id"])
    assert api.call("GET", f"/tokens?parent_id={stranger['id']}") == []
    assert api.call("GET", f"/tokens/{parent['id']}")["parent_id"] is None
    api.refused("GET", "/tokens?parent_id=x", None, 400, "parent_id")
    # Who made it is no field to be given or changed.
    given = {"project_id": project["id"], "duration_minutes": 5, "parent_id": parent["id"]}
    api.refused("POST", "/tokens", given, 400, "parent_id")
    api.refused("PATCH", f"/tokens/{child.id}", {"parent_id": None}, 400, "parent_id")
