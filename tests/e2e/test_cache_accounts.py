"""What the cache served, in every account of it; and purges, which every node feels."""

import re
from typing import Any

import requests

from tests.support.all_workers import all_workers
from tests.support.proxy_access import ProxyFactory
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

SETTINGS = {"CACHE_TTL": "10m", "REVOCATION_INTERVAL": "0.2"}


def ask(server: ProxyServer, token: str, text: str = "Hi", **headers: str) -> requests.Response:
    body = {"model": "gpt-4.1", "messages": [{"role": "user", "content": text}]}
    headers["Authorization"] = f"Bearer {token}"
    url = f"{server.url}/v1/chat/completions"
    return requests.post(url, json=body, headers=headers, timeout=30)


def says(server: ProxyServer, token: str, text: str = "Hi") -> str:
    response = ask(server, token, text)
    assert response.status_code == 200, response.text
    return response.headers["X-Cache"]


def project(server: ProxyServer, name: str) -> str:
    body = {"name": name, "api_key": "sk-upstream-real", "cache": "on"}
    made = server.manage("POST", "/projects", body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def test_hits_are_counted_and_cost_nothing(own_proxy: ProxyFactory) -> None:
    server = own_proxy(EVENT_SHIPPER="on", **SETTINGS).start()
    project_id = project(server, "cached")
    minted = server.mint(project_id, max_requests=2)
    token, token_id = minted["token"], minted["id"]
    assert says(server, token) == "MISS"
    # It is stored after its last byte.
    wait_until(lambda: server.manage("GET", "/cache").json()["item_count"] == 1, 30)
    assert [says(server, token) for _ in range(5)] == ["HIT"] * 5

    def counts() -> dict[str, int]:
        found = server.manage("GET", f"/tokens/{token_id}").json()
        return {name: found[name] for name in ("cache_hit_count", "request_count", "tokens_used")}

    expected = {"cache_hit_count": 5, "request_count": 1, "tokens_used": 21}
    wait_until(lambda: counts() == expected, 30)

    def usage() -> dict[str, Any]:
        found: dict[str, Any] = server.manage("GET", "/usage").json()["totals"]
        return found

    wait_until(lambda: usage()["requests"] == 6, 30)
    sums = usage()
    assert (sums["cache_hits"], sums["errors"]) == (5, 0)
    assert (sums["saved_prompt_tokens"], sums["saved_completion_tokens"]) == (45, 60)
    assert (sums["prompt_tokens"], sums["completion_tokens"]) == (9, 12)

    def metric(name: str) -> float:
        page = requests.get(f"{server.url}/metrics", timeout=10).text
        found = re.findall(rf"^proxy_{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return sum(map(float, found))

    wait_until(lambda: metric('cache_requests_total{result="hit"}') == 5, 30)
    wait_until(lambda: metric('cache_requests_total{result="miss"}') == 1, 30)
    assert metric('saved_tokens_total{kind="completion"}') == 60
    assert metric("cache_entries") == 1
    assert 0 < metric("cache_bytes") < metric("cache_limit_bytes")
    stats = requests.get(f"{server.url}/stats", timeout=10).json()["cache"]
    assert (stats["item_count"], stats["ttl"], stats["requests"]["hit"]) == (1, 600, 5)

    wait_until(lambda: server.manage("GET", "/cache").json()["hits"] == 5, 30)
    (largest,) = server.manage("GET", "/cache").json()["largest"]
    assert (largest["project_id"], largest["path"]) == (project_id, "/v1/chat/completions")
    shown = server.command("cache", "stats")
    assert (shown.returncode, largest["key"] in shown.stdout) == (0, True), shown.stderr

    aside = server.mint(project_id)["token"]
    assert ask(server, aside, **{"Cache-Control": "no-store"}).headers["X-Cache"] == "BYPASS"
    wait_until(lambda: metric('cache_requests_total{result="bypass"}') == 1, 30)
    assert metric('cache_requests_total{result="miss"}') == 1

    # Spent, a token gets not even what the cache has; what is known of that is a second old.
    assert says(server, token, "another") == "MISS"
    wait_until(lambda: b"quota_exceeded" in ask(server, token).content)


def test_a_purge_is_felt_on_every_node(own_proxy: ProxyFactory) -> None:
    one = own_proxy(**SETTINGS).start()
    database = f"sqlite:///{one.environ['DATA_DIR']}/proxy.db"
    two = own_proxy(DATABASE_URL=database, **SETTINGS).start()
    project_id = project(one, "cached")
    token = one.mint(project_id)["token"]

    def stored() -> None:
        for node in (one, two):
            wait_until(lambda node=node: says(node, token) == "HIT")  # type: ignore[misc]

    def purged() -> None:
        for node in (one, two):
            wait_until(lambda node=node: says(node, token) == "MISS")  # type: ignore[misc]

    def purge(*arguments: str) -> str:
        result = one.command("cache", "purge", *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    stored()
    assert purge("--prefix", "/v1/embeddings") == "0 responses purged.\n"
    assert says(two, token) == "HIT"
    assert purge("--method", "POST", "--url", "/v1/chat/completions") == "1 responses purged.\n"
    # From here on a worker that hears of a purge late may delete what came after it, so numbers
    # are not certain.
    purged()
    stored()
    before = key = ""

    def names_another_key() -> bool:
        nonlocal key
        key = ask(two, token).headers.get("X-Cache-Key", "")
        return key not in ("", before)

    wait_until(names_another_key)
    before = key
    purge("--project-id", project_id)
    purged()
    # A worker that has not heard of the purge yet still has the entry of the key before it.
    wait_until(lambda: all_workers(names_another_key))
    purge("--cache-key", key)
    wait_until(lambda: says(two, token) == "MISS")
    stored()
    assert requests.delete(f"{one.url}/cache", timeout=10).status_code == 401
    purge("--all")
    purged()
    events = one.manage("GET", "/audit?action=cache.purge").json()["events"]
    assert [event["details"] for event in events] == [
        {},
        {"key": key},
        {},
        {"method": "POST", "url": "/v1/chat/completions"},
        {"prefix": "/v1/embeddings"},
    ]
    for node in (one, two):
        assert node.stop() == 0
        assert "Traceback" not in node.log_text()


def test_a_node_that_was_away_serves_nothing_that_was_purged(own_proxy: ProxyFactory) -> None:
    one = own_proxy(**SETTINGS).start()
    database = f"sqlite:///{one.environ['DATA_DIR']}/proxy.db"
    two = own_proxy(DATABASE_URL=database, **SETTINGS).start()
    token = one.mint(project(one, "cached"))["token"]
    wait_until(lambda: says(two, token) == "HIT")
    assert two.stop() == 0
    two.spawn()
    two.wait_ready()
    assert says(two, token) == "HIT", "what is stored outlives a restart"
    assert two.stop() == 0
    body = {"prefix": "/v1/chat"}
    assert one.manage("POST", "/cache/purge", body).json() == {"deleted": 0}
    two.spawn()
    two.wait_ready()
    assert says(two, token) == "MISS"
