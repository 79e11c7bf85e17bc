"""Tokens minted from tokens: used, exact, and dead with their parent, on two nodes of MySQL."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import gevent
import openai
import pytest
import requests

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, Call, ProxyFactory
from tests.support.raw_requests import ask, chat, mint
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

Nodes = tuple[ProxyServer, ProxyServer, Access]


def statuses(server: ProxyServer, token: str) -> set[int]:
    """Of so many requests that no worker is left out."""
    return {ask(server, token).status for _ in range(8)}


@pytest.fixture
def nodes(own_proxy: ProxyFactory, mysql_url: str) -> Iterator[Nodes]:
    # So long a cache that only the question for changes can bring the news.
    settings = {"DATABASE_URL": mysql_url, "WEB_CONCURRENCY": "2", "AUTH_CACHE_TTL": "3600"}
    first, access = own_proxy.started(**settings)
    second = own_proxy(**settings).start()
    yield first, second, access
    for server in (first, second):
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()


def test_a_child_works_everywhere_and_dies_with_its_parent(nodes: Nodes) -> None:
    first, second, access = nodes
    parent = first.mint(access.project_id, can_mint=True)
    child = mint(first, parent["token"], can_mint=True)
    grandchild = mint(second, child["token"])
    assert (child["parent_id"], grandchild["parent_id"]) == (parent["id"], child["id"])
    for server in (first, second):
        assert statuses(server, grandchild["token"]) == {200}
    first.manage("DELETE", f"/tokens/{parent['id']}")
    for server in (first, second):
        wait_until(lambda server=server: statuses(server, grandchild["token"]) == {401})
    mint(second, child["token"], status=401)
    shown = second.manage("GET", f"/tokens?parent_id={child['id']}").json()
    assert [(one["id"], one["is_active"]) for one in shown] == [(grandchild["id"], True)]
    second.manage("PATCH", f"/tokens/{parent['id']}", {"is_active": True})
    for server in (first, second):
        wait_until(lambda server=server: statuses(server, grandchild["token"]) == {200})


def test_three_of_five_under_parallel_load(nodes: Nodes, upstream: Upstream) -> None:
    first, second, access = nodes
    servers = (first, second)
    parent = first.mint(access.project_id, can_mint=True, max_requests=6)
    child = mint(first, parent["token"], max_requests=3)  # a request of the parent
    upstream.received.clear()
    jobs = [gevent.spawn(ask, servers[number % 2], child["token"]) for number in range(20)]
    gevent.joinall(jobs, timeout=60)
    assert Counter(job.value.status for job in jobs) == {200: 3, 429: 17}
    jobs = [
        gevent.spawn(ask, servers[number % 2], token)
        for number in range(20)
        for token in (parent["token"], child["token"])
    ]
    gevent.joinall(jobs, timeout=60)
    assert Counter(job.value.status for job in jobs) == {200: 2, 429: 38}
    assert len(upstream.received) == 5
    assert first.manage("GET", f"/tokens/{parent['id']}").json()["request_count"] == 6
    assert first.manage("GET", f"/tokens/{child['id']}").json()["request_count"] == 3
    mint(first, parent["token"], status=429)


def test_the_parent_s_last_permits_are_shared_by_its_children(
    nodes: Nodes, upstream: Upstream
) -> None:
    first, second, access = nodes
    parent = first.mint(access.project_id, can_mint=True, max_requests=9)
    children = [mint(first, parent["token"], max_requests=4)["token"] for _ in range(2)]
    upstream.received.clear()
    jobs = [
        gevent.spawn(ask, server, token)
        for _ in range(8)
        for server in (first, second)
        for token in children
    ]
    gevent.joinall(jobs, timeout=60)
    # 2 of 9 went into minting, and of 4 and 4 the parent allows 7.
    refused = [job.value.status for job in jobs].count(429)
    passed = len(jobs) - refused
    assert {job.value.status for job in jobs} == {200, 429}
    assert passed == len(upstream.received) <= 7
    rest = [ask(first, parent["token"]).status for _ in range(7 - passed + 1)]
    assert rest == [200] * (7 - passed) + [429], "what a refused child had taken is there again"


def test_llm_tokens_are_spent_by_the_family_over_nodes(nodes: Nodes, upstream: Upstream) -> None:
    first, second, access = nodes
    # Each chat of the test's upstream says 21.
    parent = first.mint(access.project_id, can_mint=True, max_tokens_total=60)
    child = mint(second, parent["token"])
    other = mint(second, parent["token"], max_tokens_total=22)
    assert chat(first, child["token"]) == 200
    assert chat(second, other["token"]) == 200

    def used(token: dict[str, Any]) -> int:
        return int(first.manage("GET", f"/tokens/{token['id']}").json()["tokens_used"])

    wait_until(lambda: (used(parent), used(child), used(other)) == (42, 21, 21))
    assert chat(second, other["token"]) == 200
    wait_until(lambda: used(parent) == 63)
    for server in (first, second):
        wait_until(lambda server=server: statuses(server, child["token"]) == {429})
    answer = requests.get(
        f"{first.url}/v1/models", headers={"Authorization": f"Bearer {child['token']}"}, timeout=30
    )
    assert (answer.json()["error"]["code"], answer.headers["x-should-retry"]) == (
        *("quota_exceeded", "false"),
    )
    first.manage("PATCH", f"/tokens/{parent['id']}", {"max_tokens_total": 1000})
    for server in (first, second):
        wait_until(lambda server=server: statuses(server, child["token"]) == {200})
    wait_until(lambda: {chat(first, other["token"]) for _ in range(4)} == {429})


def test_the_official_client_uses_a_child(
    proxy: ProxyServer, access: Access, upstream: Upstream
) -> None:
    parent = proxy.mint(access.project_id, can_mint=True)
    child = mint(proxy, parent["token"], allowed_models=["gpt-4.1-mini"], max_requests=2)
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=child["token"], max_retries=3) as client:
        made = client.chat.completions.create(model="gpt-4.1-mini", messages=[])
        assert made.choices[0].message.content == "Hello there."
        with pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(model="gpt-4.1", messages=[])
        client.models.list()
        upstream.received.clear()
        with pytest.raises(openai.RateLimitError) as caught:
            client.models.list()
    assert caught.value.code == "quota_exceeded"
    assert upstream.received == []
    assert [event["status_code"] for event in proxy.events(4)] == [200, 403, 200, 429]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/proxy/tokens", 405),
        ("/v1/proxy/tokens?x=1", 405),
        ("/v1/proxy/tokens/", 404),
        ("/v1/proxy", 404),
        ("/v1/proxy/other", 404),
        ("/v1//proxy/tokens", 404),
        ("/v1/%70roxy/tokens", 404),
        ("/v1/proxy%2Ftokens", 404),
        ("/v1/Proxy/tokens", 404),
        ("/v1/proxy;x/tokens", 404),
        ("/v1/x/%252e%252e/proxy/tokens", 404),
        ("/v1/./proxy/tokens", 404),
        ("/v1/x/../proxy/tokens", 404),
        ("/%761/proxy/tokens", 404),
        ("//v1/proxy/tokens", 404),
    ],
)
def test_our_path_never_reaches_the_upstream(call: Call, target: str, status: int) -> None:
    for method in ("GET", "POST", "PURGE"):
        if method != "POST" or status == 404:
            answer = call.relayed(method, target)
            assert answer.status == status or (method == "PURGE" and answer.status == 405)
    assert call.upstream.received == []
    if status == 404 and target.startswith("/v1/"):
        call.proxy.events(3)
