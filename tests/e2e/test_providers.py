"""Providers, keys and mappings are made, shown, tested and deleted on the real server."""

import json
from typing import Any

import requests

from tests.support import canaries
from tests.support.fake_upstream import Upstream
from tests.support.server import MANAGEMENT_TOKEN, UPSTREAM_KEY, ProxyServer

OTHER_KEY = "sk-other-canary-9876543210zyxwvuZYXWVU"


def manage(server: ProxyServer, *arguments: str, stdin: str = "", status: int = 0) -> Any:
    """What the command prints as JSON. It must end with ``status``."""
    done = server.command(*arguments, "--json", stdin=stdin)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_from_a_provider_to_its_mappings(proxy: ProxyServer, upstream: Upstream) -> None:
    canaries.register(OTHER_KEY)
    new = ["provider", "create", "--name", "primary", "--type", "openai"]
    refused = proxy.command(*new, "--url", f"{upstream.url}/v1")
    assert refused.returncode == 1
    assert "allow_private" in refused.stderr
    # Workers would ask it for its models by themselves, too.
    silent = ("--allow-private", "--config", "list_models=false")
    made = manage(proxy, *new, "--url", f"{upstream.url}/v1", *silent)

    new_key = ["provider-key", "create", "--provider", "primary", "--value", "-", "--name"]
    key = manage(proxy, *new_key, "a", stdin=UPSTREAM_KEY)
    manage(proxy, *new_key, "b", "--inactive", stdin=UPSTREAM_KEY)
    assert UPSTREAM_KEY not in json.dumps(key)
    targets = ["primary/gpt-4.1", "primary/org/gpt-4.1-mini"]
    manage(proxy, "mapping", "set", "team/fast-*", *targets)
    # Each of the workers shows them, at once.
    for _ in range(6):
        (shown,) = proxy.manage("GET", "/providers").json()
        assert (shown["id"], shown["keys_count"]) == (made["id"], 2)
        found = proxy.manage("GET", "/mappings?alias=team/fast-*").json()
        assert [f"{one['provider']}/{one['provider_model_name']}" for one in found] == targets

    (result,) = manage(proxy, "provider", "test", "primary")["results"]
    assert (result["key_id"], result["ok"], result["status"]) == (key["id"], True, 200)
    (request,) = upstream.received
    assert (request.method, request.target) == ("GET", "/v1/models")
    assert request.values("authorization") == [f"Bearer {UPSTREAM_KEY}"]

    manage(proxy, "provider-key", "update", "primary/a", "--value", "-", stdin=OTHER_KEY)
    manage(proxy, "provider", "test", made["id"])
    assert upstream.received[-1].values("authorization") == [f"Bearer {OTHER_KEY}"]
    assert manage(proxy, "provider-key", "reset", "primary/a")["id"] == key["id"]

    manage(proxy, "provider", "update", "primary", "--url", "http://127.0.0.1:9")
    (result,) = manage(proxy, "provider", "test", "primary", status=1)["results"]
    assert (result["ok"], result["status"]) == (False, None)
    assert "could not be reached" in result["error"]

    assert proxy.command("provider", "delete", "primary").returncode == 1, "in use"
    assert proxy.manage("PUT", "/mappings/team/fast-*", []).json() == []
    manage(proxy, "provider", "delete", "primary")
    assert proxy.manage("GET", "/keys").json() == []
    entries = proxy.manage("GET", "/audit?outcome=success").json()["events"]
    newest = [entry["action"] for entry in entries[:3]]
    assert newest == ["provider.delete", "mapping.replace", "provider.update"]
    for secret in (UPSTREAM_KEY, OTHER_KEY):
        assert secret not in proxy.manage("GET", "/audit?page_size=100").text
        assert secret not in proxy.log_text()


def test_the_same_below_admin_with_the_same_bearer(proxy: ProxyServer) -> None:
    bearer = {"Authorization": f"Bearer {MANAGEMENT_TOKEN}"}
    for name in ("providers", "keys", "mappings", "health"):
        found = requests.get(f"{proxy.url}/admin/{name}", headers=bearer, timeout=30)
        assert found.status_code == 200
        assert found.json() == proxy.manage("GET", f"/{name}").json()
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = requests.get(f"{proxy.url}/admin/{name}", headers=headers, timeout=30)
            assert refused.json()["error"]["code"] == "invalid_management_token"


def test_health_at_a_glance(proxy: ProxyServer) -> None:
    found = proxy.manage("GET", "/health").json()
    assert found == {"status": "ok", "database": "ok", "redis": "not used", "providers": []}
