"""Every call of the management API that changes something leaves exactly one entry, or says why."""

import dataclasses
import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from proxy.audit.denials import BURST
from proxy.core.errors import ClientError, StoreError
from proxy.gateway.request import ClientRequest
from proxy.store.audit import AuditEntry
from proxy.web.audit_trail import actors
from tests.support.management_client import ABSENT, UPSTREAM_KEY, Management
from tests.support.relay_factories import PRINCIPAL


@pytest.fixture
def api(sqlite_url: str) -> Management:
    return Management(sqlite_url)


def entries(api: Management) -> list[AuditEntry]:
    """Oldest first, those off the path included."""
    api.recorder.flush()
    return api.audit.find({}, 100, 0)[0][::-1]


def routing_calls(api: Management) -> dict[str, list[tuple[str, str, Any, int]]]:
    """Changes of a provider, a key and a mapping, which are made here, until they are deleted."""
    provider = api.made_provider()
    key, mapping = api.made_key(provider["id"]), api.made_mapping(provider["id"])
    targets = [{"provider": "openai", "provider_model_name": "gpt-4.1"}]
    return {
        "provider.update": [("PATCH", f"/providers/{provider['id']}", {"is_active": False}, 200)],
        "key.update": [("PATCH", f"/keys/{key['id']}", {"weight": 2}, 200)],
        "key.reset": [("POST", f"/keys/{key['id']}/reset", None, 200)],
        "key.delete": [("DELETE", f"/keys/{key['id']}", None, 204)],
        "mapping.update": [("PATCH", f"/mappings/{mapping['id']}", {"weight": 2}, 200)],
        "mapping.replace": [("PUT", "/mappings/fast", targets, 200)],
        "mapping.delete": [("DELETE", f"/mappings/{mapping['id']}", None, 204)],
        "provider.delete": [("DELETE", f"/providers/{provider['id']}", None, 204)],
    }


def test_every_call_that_changes_something(api: Management) -> None:
    project = api.project()
    token = api.token(project["id"])
    calls: dict[str, list[tuple[str, str, Any, int]]] = {
        "project.update": [
            ("PATCH", f"/projects/{project['id']}", {"name": "New"}, 200),
            ("PATCH", "/projects", {"project_id": project["id"], "description": "d"}, 200),
        ],
        "token.update": [("PATCH", f"/tokens/{token['id']}", {"name": "n"}, 200)],
        "token.revoke": [
            ("DELETE", f"/tokens/{token['id']}", None, 204),
            ("DELETE", "/tokens", {"token": token["token"]}, 204),
        ],
        "token.revoke_batch": [("POST", f"/projects/{project['id']}/tokens/revoke", None, 200)],
        "cache.purge": [("POST", "/cache/purge", {"project_id": project["id"]}, 200)],
        "project.delete": [
            ("DELETE", f"/projects/{project['id']}", None, 204),
            ("DELETE", "/projects", {"project_id": project["id"]}, 204),
        ],
    }
    wanted = ["project.create", "token.create"]
    calls |= routing_calls(api)
    wanted += ["provider.create", "key.create", "mapping.create"]
    for action, some in calls.items():
        for method, path, body, status in some:
            api.call(method, path, body, status)
            wanted.append(action)
    assert api.client.delete("/cache").status_code == 200
    wanted.append("cache.purge")
    found = entries(api)
    assert [entry.action for entry in found] == wanted
    assert {entry.outcome for entry in found} == {"success"}
    assert {entry.project_id for entry in found} == {project["id"], None}
    assert api.told == found, "to the event sinks as well"
    # All routes were called: one that is added must be added here, and leave an entry.
    rules = api.client.application.url_map.iter_rules()
    changing = {"POST", "PUT", "PATCH", "DELETE"}
    routes = {(m, rule.rule) for rule in rules for m in changing & (rule.methods or set())}
    called = {(m, f"/manage{path}") for some in calls.values() for m, path, _, _ in some}
    called |= {("POST", f"/manage/{name}") for name in ("projects", "tokens", "providers")}
    called |= {("POST", "/manage/keys"), ("POST", "/manage/mappings"), ("DELETE", "/cache")}
    # It asks an upstream and changes nothing.
    routes -= {("POST", "/manage/providers/<provider_id>/test")}
    assert len(routes) == len(called)
    for method, rule in routes:
        pattern = re.sub(r"<[\w:]+>", "[^/]+", rule)
        assert any(m == method and re.fullmatch(pattern, path) for m, path in called), rule


def test_reading_leaves_none(api: Management) -> None:
    project = api.project()
    for path in ("/projects", f"/projects/{project['id']}", "/tokens", "/usage", "/audit"):
        api.call("GET", path)
    assert len(entries(api)) == 1


@pytest.mark.parametrize(
    ("call", "action", "code", "param"),
    [
        (
            ("POST", "/projects", {"name": "Acme", "api_key": UPSTREAM_KEY}, 409),
            *("project.create", "conflict", "name"),
        ),
        (
            ("POST", "/projects", {"name": "x", "key": "sk-secret-in-a-typo"}, 400),
            *("project.create", "invalid_request", "key"),
        ),
        (
            ("PATCH", f"/projects/{ABSENT}", {"name": "x"}, 404),
            *("project.update", "not_found", None),
        ),
        (("DELETE", f"/tokens/{ABSENT}", None, 404), "token.revoke", "not_found", None),
        (("POST", "/tokens", {}, 400), "token.create", "invalid_request", "project_id"),
    ],
)
def test_a_call_that_is_refused(
    api: Management,
    call: tuple[str, str, Any, int],
    action: str,
    code: str,
    param: str | None,
) -> None:
    api.project()
    api.call(*call)
    _, entry = entries(api)
    assert (entry.action, entry.outcome) == (action, "failure")
    assert (entry.details["code"], entry.details["param"]) == (code, param)
    assert ABSENT not in call[1] or ABSENT in (entry.project_id, entry.token_id)
    assert "secret" not in str(entry)


def test_a_defect_is_one_too(api: Management, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(api.projects, "create", broken)
    body = {"name": "x", "api_key": UPSTREAM_KEY}
    assert api.client.post("/manage/projects", json=body).status_code == 500
    (entry,) = entries(api)
    assert (entry.outcome, entry.details["code"]) == ("failure", "internal_error")
    assert "secret" not in str(entry)


@pytest.mark.parametrize(
    ("header", "address"),
    [(None, "127.0.0.1"), ("203.0.113.7", "203.0.113.7"), ("6.6.6.6, 203.0.113.7", "203.0.113.7")],
)
def test_the_address_is_what_the_trusted_proxy_says(
    api: Management, header: str | None, address: str
) -> None:
    body = {"name": "x", "api_key": UPSTREAM_KEY}
    headers = {} if header is None else {"X-Forwarded-For": header}
    assert api.client.post("/manage/projects", json=body, headers=headers).status_code == 201
    assert entries(api)[0].client_ip == address


def test_of_an_upstream_key_only_the_mask_is_audited(api: Management) -> None:
    project = api.project()
    new = "sk-proj-another-fedcba9876543210"
    api.call("PATCH", f"/projects/{project['id']}", {"api_key": new})
    token = api.token(project["id"])
    api.call("DELETE", "/tokens", {"token": token["token"]}, 204)
    _, changed, *_ = found = entries(api)
    assert changed.details == {
        "before": {"api_key": "sk-proj-...cdef"},
        "after": {"api_key": "sk-proj-...3210"},
    }
    for secret in (UPSTREAM_KEY, new, token["token"]):
        assert secret not in str(found)


def test_two_tokens_are_distinguished_and_neither_is_revealed() -> None:
    old, new = actors(["old-management-token", "new-management-token"])
    assert old != new
    digest = hashlib.sha256(b"old-management-token").hexdigest()
    assert old == f"management:{digest[:4]}"


def test_nothing_is_published_that_was_not_committed(
    api: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction fails after the entry was written in it."""
    project = api.project()
    run = api.database.run

    def failing(work: Any, **more: Any) -> Any:
        def both(session: Any) -> Any:
            work(session)
            raise StoreError

        return run(both, **more)

    monkeypatch.setattr(api.database, "run", failing)
    api.call("PATCH", f"/projects/{project['id']}", {"name": "New"}, 503)
    monkeypatch.undo()
    assert len(api.told) == 1
    assert [entry.outcome for entry in entries(api)] == ["success", "failure"]
    assert api.projects.get(project["id"]).name == "Acme"


def inbound(request_id: str = "r9") -> ClientRequest:
    environ = {"wsgi.input": None, "REQUEST_METHOD": "POST", "REMOTE_ADDR": "203.0.113.7"}
    return ClientRequest({**environ, "HTTP_X_REQUEST_ID": request_id}, 0)


def test_a_mint(api: Management) -> None:
    project = api.project()
    parent = dataclasses.replace(PRINCIPAL, project_id=project["id"])
    audit = api.trail.mint(parent, inbound())
    api.trail.committed(audit)
    assert len(api.told) == 1, "nothing was written yet"
    later = datetime(2030, 1, 1, tzinfo=UTC)
    child = api.tokens.create(ABSENT, project["id"], "h", "sk-a...b", later, audit=audit)
    api.trail.committed(audit)
    entry = api.told[-1]
    assert (entry.action, entry.actor) == ("token.mint", f"token:{parent.token_id}")
    assert (entry.project_id, entry.token_id) == (project["id"], child.id)
    assert (entry.client_ip, entry.request_id) == ("203.0.113.7", "r9")


def test_refused_mints(api: Management) -> None:
    refused = ClientError(code="model_not_allowed")
    for _ in range(3):
        api.trail.refused_mint(PRINCIPAL, inbound(), refused)
    for known, code in ((None, "token_not_found"), (PRINCIPAL, "token_expired")):
        for _ in range(BURST):
            api.trail.refused_mint(known, inbound(), ClientError(code=code))
    mint, credentials = api.recorder.denials.due()
    assert (mint.action, mint.actor) == ("token.mint", f"token:{PRINCIPAL.token_id}")
    assert (mint.outcome, mint.details["count"]) == ("denied", 3)
    assert (mint.token_id, mint.project_id) == (PRINCIPAL.token_id, PRINCIPAL.project_id)
    assert (credentials.action, credentials.actor) == ("auth.denied", "anonymous")
    assert credentials.details["where"] == "/v1"
    assert credentials.details["codes"] == {"token_not_found": BURST, "token_expired": BURST}
