"""``/manage/projects`` as its callers see it."""

from typing import Any

import pytest

from proxy.policy.fields import fields_of
from tests.support.management_client import ABSENT, UPSTREAM_KEY, Management


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


FIELDS = [
    "id",
    "name",
    "description",
    "metadata",
    "api_key",
    *fields_of("project"),
    "is_active",
    "deactivated_at",
    "created_at",
    "updated_at",
]


#: What the choices cannot be.
ODD: list[Any] = ["", "Drain", "Inject", "finish", True, 1, ["drain"], {}]
#: Policy fields of tokens alone, and names that are none.
NOT_HERE = ["max_tokens_total", "can_mint", "max_requests", "allowed_model"]


def test_makes_one_and_shows_only_the_mask(api: Management) -> None:
    made = api.project(" Acme ", description="d\ne", metadata={"a": {"b": 1}})
    assert list(made) == FIELDS
    assert (made["name"], made["description"], made["metadata"]) == (
        "Acme",
        "d\ne",
        {"a": {"b": 1}},
    )
    assert made["api_key"] == "sk-proj-...cdef"
    assert made["is_active"] is True
    assert made["deactivated_at"] is None
    assert made["created_at"].endswith("Z")
    assert api.call("GET", f"/projects/{made['id']}") == made
    assert api.call("GET", f"/projects/{made['id'].upper()}") == made
    assert api.call("GET", "/projects") == [made]
    assert UPSTREAM_KEY not in api.call("GET", "/projects", raw=True).get_data(as_text=True)


def test_the_key_has_another_name_too(api: Management) -> None:
    made = api.call("POST", "/projects", {"name": "a", "openai_api_key": UPSTREAM_KEY}, 201)
    assert made["api_key"] == "sk-proj-...cdef"
    both = {"name": "b", "api_key": UPSTREAM_KEY, "openai_api_key": UPSTREAM_KEY}
    api.call("POST", "/projects", both, 201)
    differ = {**both, "name": "c", "openai_api_key": UPSTREAM_KEY + "x"}
    api.refused("POST", "/projects", differ, 400, "openai_api_key")


@pytest.mark.parametrize("path", ["/projects", "/projects/"])
def test_a_slash_at_the_end_does_not_redirect(api: Management, path: str) -> None:
    made = api.call("POST", path, {"name": "a", "api_key": UPSTREAM_KEY}, 201)
    assert api.call("GET", path) == [made]
    one = path.rstrip("/") + "/" + made["id"] + path.removeprefix("/projects")
    assert api.call("GET", one) == made
    api.call("PATCH", path, {"project_id": made["id"], "name": "b"})
    api.call("DELETE", path, {"project_id": made["id"]}, 204)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"api_key": UPSTREAM_KEY}, "name"),
        ({"name": "", "api_key": UPSTREAM_KEY}, "name"),
        ({"name": "a"}, "api_key"),
        ({"name": "a", "api_key": None}, "api_key"),
        ({"name": "a", "api_key": ""}, "api_key"),
        ({"name": "a", "api_key": "with space"}, "api_key"),
        ({"name": "a", "api_key": "line\r\nX-Evil: 1"}, "api_key"),
        ({"name": "a", "api_key": "ключ-0123456789abcdef"}, "api_key"),
        ({"name": "a", "api_key": "k" * 4097}, "api_key"),
        ({"name": "a", "api_key": "sk-proj-...cdef"}, "api_key"),
        ({"name": "a", "openai_api_key": "********"}, "openai_api_key"),
        ({"name": "a", "api_key": UPSTREAM_KEY, "description": 0}, "description"),
        ({"name": "a", "api_key": UPSTREAM_KEY, "description": "x" * 4097}, "description"),
        ({"name": "a", "api_key": UPSTREAM_KEY, "metadata": []}, "metadata"),
        ({"name": "a", "api_key": UPSTREAM_KEY, "metadata": {"x": "y" * 65536}}, "metadata"),
        ({"name": "a", "api_key": UPSTREAM_KEY, "is_active": True}, "is_active"),
        ({"name": "a", "api_key": UPSTREAM_KEY, "policy": {}}, "policy"),
        *(
            ({"name": "a", "api_key": UPSTREAM_KEY, field: value}, field)
            for field in ("on_disconnect", "stream_usage")
            for value in ODD
        ),
        *(({"name": "a", "api_key": UPSTREAM_KEY, field: None}, field) for field in NOT_HERE),
    ],
)
def test_odd_bodies_are_refused(api: Management, body: dict[str, Any], param: str) -> None:
    error = api.refused("POST", "/projects", body, 400, param)
    assert error["code"] == "invalid_request"
    assert api.call("GET", "/projects") == []


def test_refusals_never_repeat_the_key(api: Management) -> None:
    response = api.call("POST", "/projects", {"name": "a", "api_key": "s3cret key"}, 400, raw=True)
    assert "s3cret" not in response.get_data(as_text=True)


def test_names_are_unique(api: Management) -> None:
    api.project("a")
    body = {"name": "a ", "api_key": UPSTREAM_KEY}
    assert api.refused("POST", "/projects", body, 409, "name")["code"] == "conflict"


def test_lists_by_name_in_pages(api: Management) -> None:
    for name in ("c", "a", "b"):
        api.project(name)
    page = api.call("GET", "/projects?limit=2", raw=True)
    assert [project["name"] for project in page.get_json()] == ["a", "b"]
    target = page.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
    rest = api.call("GET", "/projects" + target, raw=True)
    assert [project["name"] for project in rest.get_json()] == ["c"]
    assert "Link" not in rest.headers
    assert "Link" not in api.call("GET", "/projects?limit=3", raw=True).headers
    api.refused("GET", f"/projects?after={ABSENT}", None, 400, "after")
    api.refused("GET", "/projects?after=x", None, 400, "after")
    api.refused("GET", "/projects?limit=0", None, 400, "limit")
    api.refused("GET", "/projects?page=1", None, 400, "page")


@pytest.mark.parametrize("by_body", [False, True])
def test_changes(api: Management, by_body: bool) -> None:
    made = api.project(description="d")
    api.token(made["id"])

    def change(status: int = 200, **body: Any) -> Any:
        if by_body:
            return api.call("PATCH", "/projects", {"project_id": made["id"], **body}, status)
        return api.call("PATCH", f"/projects/{made['id']}", body, status)

    assert change(name="b")["name"] == "b"
    assert change(description=None, metadata=None)["description"] is None
    assert change(api_key="sk-new")["api_key"] == "********"
    assert change(400)["error"]["message"] == "There is no field to change."
    assert change(400, api_key="sk-proj-...cdef")["error"]["param"] == "api_key"
    assert change(400, is_active="no")["error"]["param"] == "is_active"
    assert change(400, revoke_tokens=True)["error"]["param"] == "revoke_tokens"
    assert change(400, revoke_tokens=True, is_active=True)["error"]["param"] == "revoke_tokens"
    assert api.tokens.list()[0].is_active
    gone = change(is_active=False, revoke_tokens=True)
    assert gone["is_active"] is False
    assert gone["deactivated_at"] == gone["updated_at"]
    assert not api.tokens.list()[0].is_active
    assert change(is_active=True)["deactivated_at"] is None


def test_what_happens_when_a_client_leaves(api: Management) -> None:
    assert api.project("a")["on_disconnect"] == "cancel"
    assert api.project("b", on_disconnect=None)["on_disconnect"] == "cancel"
    assert api.project("c", on_disconnect="cancel")["on_disconnect"] == "cancel"
    made = api.project("d", on_disconnect="drain")
    assert made["on_disconnect"] == "drain"
    path = f"/projects/{made['id']}"
    assert api.call("GET", path) == made
    assert api.call("PATCH", path, {"name": "e"})["on_disconnect"] == "drain"
    api.refused("PATCH", path, {"on_disconnect": "x"}, 400, "on_disconnect")
    assert api.call("PATCH", path, {"on_disconnect": None})["on_disconnect"] == "cancel"
    assert api.call("PATCH", path, {"on_disconnect": "drain"})["on_disconnect"] == "drain"
    by_body = {"project_id": made["id"], "on_disconnect": "cancel"}
    assert api.call("PATCH", "/projects", by_body)["on_disconnect"] == "cancel"
    for field in NOT_HERE:
        api.refused("PATCH", path, {field: None}, 400, field)


def test_deactivates_again_and_again(api: Management) -> None:
    made = api.project()
    token = api.token(made["id"])
    for _ in range(2):
        api.call("DELETE", f"/projects/{made['id']}", status=204)
    api.call("DELETE", "/projects", {"project_id": made["id"]}, 204)
    assert api.call("GET", f"/projects/{made['id']}")["is_active"] is False
    assert api.call("GET", f"/tokens/{token['id']}")["is_active"] is False


def test_revokes_all_tokens(api: Management) -> None:
    made = api.project()
    tokens = [api.token(made["id"]) for _ in range(3)]
    api.call("DELETE", f"/tokens/{tokens[0]['id']}", status=204)
    path = f"/projects/{made['id']}/tokens/revoke"
    counts = {"revoked_count": 2, "already_revoked_count": 1, "total_tokens": 3}
    assert api.call("POST", path) == counts
    again = {"revoked_count": 0, "already_revoked_count": 3, "total_tokens": 3}
    assert api.call("POST", path) == again


@pytest.mark.parametrize("project_id", [ABSENT, "x", "1", "%00", "..%2F"])
def test_what_is_not_there(api: Management, project_id: str) -> None:
    path = f"/projects/{project_id}"
    if "%2F" not in project_id:
        assert api.call("GET", path, status=404)["error"]["code"] == "not_found"
        api.call("PATCH", path, {"name": "x"}, 404)
        api.call("DELETE", path, status=404)
        api.call("POST", path + "/tokens/revoke", status=404)
    api.call("PATCH", "/projects", {"name": "x", "project_id": project_id}, 404)
    api.call("DELETE", "/projects", {"project_id": project_id}, 404)


def test_the_collection_needs_a_project_id(api: Management) -> None:
    api.refused("PATCH", "/projects", {"name": "x"}, 400, "project_id")
    api.refused("DELETE", "/projects", {"project_id": 1}, 400, "project_id")
    api.refused("DELETE", "/projects", {"project_id": ABSENT, "x": 1}, 400, "x")


def test_whether_streams_are_asked_for_their_usage(api: Management) -> None:
    assert api.project("a")["stream_usage"] == "off"
    made = api.project("b", stream_usage="inject", on_disconnect="drain")
    assert (made["stream_usage"], made["on_disconnect"]) == ("inject", "drain")
    path = f"/projects/{made['id']}"
    changed = api.call("PATCH", path, {"on_disconnect": "cancel"})
    assert (changed["stream_usage"], changed["on_disconnect"]) == ("inject", "cancel")
    changed = api.call("PATCH", path, {"stream_usage": None})
    assert (changed["stream_usage"], changed["on_disconnect"]) == ("off", "cancel")
    both = {"stream_usage": "inject", "on_disconnect": "drain"}
    changed = api.call("PATCH", path, both)
    assert {field: changed[field] for field in both} == both
    assert api.call("PATCH", path, {"stream_usage": "off"})["stream_usage"] == "off"


class TestUpstreams:
    @pytest.fixture
    def shared(self, api: Management) -> Management:
        for name in ("openai", "claude"):
            api.providers.create(name, "openai", f"https://{name}.test")
        return api

    def test_a_project_without_a_key(self, shared: Management) -> None:
        made = shared.call("POST", "/projects", {"name": "a", "providers": ["claude"]}, 201)
        assert made["api_key"] is None
        assert made["providers"] == ["claude"]
        assert shared.call("GET", f"/projects/{made['id']}") == made
        path = f"/projects/{made['id']}"
        assert shared.call("PATCH", path, {"api_key": UPSTREAM_KEY})["api_key"] == "sk-proj-...cdef"
        assert shared.call("PATCH", path, {"api_key": None})["api_key"] is None

    @pytest.mark.parametrize("none", [[], None])
    def test_neither_key_nor_providers(self, shared: Management, none: list[str] | None) -> None:
        body = {"name": "a", "providers": none}
        shared.refused("POST", "/projects", body, 400, "api_key")
        made = shared.call("POST", "/projects", {"name": "a", "providers": ["*"]}, 201)
        path = f"/projects/{made['id']}"
        shared.refused("PATCH", path, {"providers": none}, 400, "providers")
        both = {"providers": none, "api_key": UPSTREAM_KEY}
        assert shared.call("PATCH", path, both)["providers"] == []
        shared.refused("PATCH", path, {"api_key": None}, 400, "api_key")
        assert shared.call("GET", path)["api_key"] == "sk-proj-...cdef"
        swapped = shared.call("PATCH", path, {"api_key": None, "providers": ["openai"]})
        assert (swapped["api_key"], swapped["providers"]) == (None, ["openai"])
        assert shared.call("PATCH", path, {"name": "b"})["name"] == "b"

    def test_unknown_names_are_refused(self, shared: Management) -> None:
        body = {"name": "a", "api_key": UPSTREAM_KEY, "providers": ["openai", "gone"]}
        error = shared.refused("POST", "/projects", body, 400, "providers")
        assert "'gone'" in error["message"]
        made = shared.project(providers=["openai", "claude"])
        path = f"/projects/{made['id']}"
        shared.refused("PATCH", path, {"providers": ["gone"]}, 400, "providers")
        gone = shared.providers.list()[0]
        shared.providers.delete(gone.id)
        assert shared.call("PATCH", path, {"name": "b"})["providers"] == ["openai", "claude"]

    @pytest.mark.parametrize("host", ["10.0.0.1", "localhost:8000", "169.254.169.254", "[::1]"])
    def test_a_private_upstream_needs_the_setting(
        self, api: Management, sqlite_url: str, host: str
    ) -> None:
        body = {"name": "a", "api_key": UPSTREAM_KEY, "base_url": f"http://{host}/v1"}
        error = api.refused("POST", "/projects", body, 400, "base_url")
        assert "ALLOW_PRIVATE_UPSTREAMS=on" in error["message"]
        path = f"/projects/{api.project('b')['id']}"
        api.refused("PATCH", path, {"base_url": body["base_url"]}, 400, "base_url")
        allowing = Management(sqlite_url, allow_private=True)
        assert allowing.call("POST", "/projects", body, 201)["base_url"] == body["base_url"]

    def test_the_audit_log_shows_that_the_key_was_removed(self, shared: Management) -> None:
        made = shared.project(providers=["*"])
        shared.call("PATCH", f"/projects/{made['id']}", {"api_key": None})
        details = shared.audit.find({"action": "project.update"}, 1, 0)[0][0].details
        assert details["before"]["api_key"] == "sk-proj-...cdef"
        assert details["after"]["api_key"] == ""


def test_what_a_new_project_asks_of_the_cache(api: Management) -> None:
    made = api.project("a")
    shown = [made[name] for name in ("cache", "cache_scope", "coalesce", "idempotency")]
    assert shown == ["off", "project", "off", "off"]
    assert "cache_epoch" not in made


def test_sharing_needs_a_cache(api: Management) -> None:
    base = {"name": "a", "api_key": UPSTREAM_KEY}
    for more in ({}, {"cache": "off"}, {"cache": None}):
        api.refused("POST", "/projects", {**base, "coalesce": "on", **more}, 400, "coalesce")
    made = api.project("a", coalesce="on", cache="on")
    path = f"/projects/{made['id']}"
    for value in ("off", None):
        error = api.refused("PATCH", path, {"cache": value}, 400, "coalesce")
        assert "`cache`" in error["message"]
    assert api.call("GET", path)["cache"] == "on"
    both = api.call("PATCH", path, {"cache": "off", "coalesce": "off"})
    assert (both["cache"], both["coalesce"]) == ("off", "off")
    api.refused("PATCH", path, {"coalesce": "on"}, 400, "coalesce")


class TestWithoutACache:
    """On a node without CACHE_TTL."""

    @pytest.fixture
    def bare(self, sqlite_url: str) -> Management:
        return Management(sqlite_url, caches=False)

    @pytest.mark.parametrize("mode", ["on", "opt_in"])
    def test_no_project_can_ask_for_it(self, bare: Management, mode: str) -> None:
        base = {"name": "a", "api_key": UPSTREAM_KEY}
        error = bare.refused("POST", "/projects", {**base, "cache": mode}, 400, "cache")
        assert "CACHE_TTL" in error["message"]
        made = bare.project("b", cache="off")
        bare.refused("PATCH", f"/projects/{made['id']}", {"cache": mode}, 400, "cache")
        assert bare.call("GET", f"/projects/{made['id']}")["cache"] == "off"

    def test_one_that_asks_for_it_already_can_be_changed(
        self, bare: Management, sqlite_url: str
    ) -> None:
        made = Management(sqlite_url).project("a", cache="on")
        path = f"/projects/{made['id']}"
        assert bare.call("PATCH", path, {"rate_limit_rpm": 5})["cache"] == "on"
        assert bare.call("PATCH", path, {"cache": None})["cache"] == "off"

    def test_all_else_works(self, bare: Management) -> None:
        made = bare.project("a", idempotency="on", on_disconnect="hold", cache_scope="token")
        assert (made["idempotency"], made["on_disconnect"]) == ("on", "hold")
        token = bare.token(made["id"], cache="opt_in")
        assert token["cache"] == "opt_in"


def test_a_new_upstream_key_makes_stored_responses_unreadable(api: Management) -> None:
    made = api.project("a")
    path = f"/projects/{made['id']}"
    assert api.projects.get(made["id"]).cache_epoch == 0
    api.call("PATCH", path, {"api_key": f"{UPSTREAM_KEY}-new"})
    assert api.projects.get(made["id"]).cache_epoch == 1
    assert api.announced == [made["id"]]
    api.call("PATCH", path, {"name": "b", "cache": "on"})
    assert api.projects.get(made["id"]).cache_epoch == 1
