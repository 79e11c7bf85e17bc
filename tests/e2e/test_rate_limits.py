"""Limits that hold over workers and nodes, with Redis and without; what a client is told.

Limits are low, so that what comes back while a test runs is at most a permit or two; how many is
reckoned from the time that it took.
"""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Sequence

import gevent
import openai
import pytest
import requests
from wsproto.events import AcceptConnection, RejectConnection

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient, RawResponse
from tests.support.realtime import Client, Realtime, opening
from tests.support.server import ProxyServer
from tests.support.services import RedisServer
from tests.support.wait import wait_until

OURS = "x-proxy-ratelimit"
CHAT = [("Content-Type", "application/json")]


def ask(
    server: ProxyServer,
    access: Access,
    target: str = "/v1/models",
    model: str | None = None,
) -> RawResponse:
    with RawClient(server.port, timeout=60) as client:
        if model is None:
            client.request("GET", target, [access.bearer])
        else:
            body = json.dumps({"model": model, "messages": []}).encode()
            client.request("POST", "/v1/chat/completions", [access.bearer, *CHAT], body)
        return client.read_response()


def code(answer: RawResponse) -> str:
    return str(json.loads(answer.body)["error"]["code"])


def narrow(server: ProxyServer, table: str, row: str, **policy: int) -> None:
    """Before its first use, so that nobody has to learn of the change."""
    answer = server.manage("PATCH", f"/{table}/{row}", policy)
    assert answer.status_code == 200, answer.text


def misses(server: ProxyServer) -> int:
    """How many workers have looked a token up: each does once."""
    page = requests.get(f"{server.url}/metrics", timeout=10).text
    found = re.search(r'proxy_token_cache_lookups_total{result="miss"} (\d+)', page)
    return int(found[1]) if found else 0


def flood(servers: Sequence[ProxyServer], access: Access) -> "Counter[int]":
    """Forty at once, and on until every worker has served."""
    statuses: Counter[int] = Counter()

    def work(number: int) -> None:
        statuses[ask(servers[number % len(servers)], access).status] += 1

    def every_worker_has_served() -> bool:
        gevent.joinall([gevent.spawn(work, number) for number in range(8)], timeout=60)
        return all(misses(server) >= 2 for server in servers)

    gevent.joinall([gevent.spawn(work, number) for number in range(40)], timeout=60)
    wait_until(every_worker_has_served, 30)
    return statuses


def holds(statuses: "Counter[int]", limit: int, began: float) -> None:
    came_back = math.floor((time.monotonic() - began) * limit / 60)
    assert set(statuses) == {200, 429}
    assert limit <= statuses[200] <= limit + came_back


def test_two_workers_share_a_limit(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(RATE_LIMIT_PER_KEY_RPM="10")
    began = time.monotonic()
    statuses = flood([server], access)
    holds(statuses, 10, began)
    assert len(upstream.received) == statuses[200]
    refused = ask(server, access)
    assert (refused.status, code(refused)) == (429, "rate_limit_exceeded")
    assert b"this access token: 10 requests per minute" in refused.body
    wait_until(lambda: refusals(server)["token"] == statuses[429] + 1)
    assert '"shared":false' in requests.get(f"{server.url}/stats", timeout=10).text


def refusals(server: ProxyServer) -> dict[str, int]:
    page = requests.get(f"{server.url}/metrics", timeout=10).text
    found = re.findall(r'proxy_limit_refusals_total{limit="([a-z]+)"} (\d+)', page)
    return {name: int(count) for name, count in found}


def test_two_nodes_share_a_limit_in_redis(
    own_proxy: ProxyFactory, mysql_url: str, redis_server: RedisServer, upstream: Upstream
) -> None:
    settings = {
        "DATABASE_URL": mysql_url,
        "REDIS_URL": redis_server.url,
        "RATE_LIMIT_PER_PROJECT_RPM": "10",
        "RATE_LIMIT": "100000",
    }
    first, access = own_proxy.started(**settings)
    second = own_proxy(**settings).start()
    began = time.monotonic()
    statuses = flood([first, second], access)
    holds(statuses, 10, began)
    assert len(upstream.received) == statuses[200]
    assert b"this project: 10 requests per minute" in ask(second, access).body


@pytest.mark.services
@pytest.mark.parametrize("on_error", ["open", "closed"])
def test_redis_goes_away(own_proxy: ProxyFactory, on_error: str) -> None:
    with RedisServer() as redis:
        server, access = own_proxy.started(
            REDIS_URL=redis.url, RATE_LIMIT_PER_TOKEN_RPM="10", RATE_LIMIT_ON_ERROR=on_error
        )
        assert ask(server, access).status == 200
        redis.halt()
        if on_error == "open":
            began = time.monotonic()
            holds(flood([server], access), 10, began)
        else:
            refused = ask(server, access)
            assert (refused.status, code(refused)) == (503, "store_unavailable")
            assert int(refused.values("Retry-After")[0]) >= 1
        assert server.manage("GET", "/projects").status_code == 200
        wait_until(lambda: up(server) == "0.0")
        redis.run()

        def is_back() -> bool:
            ask(server, access)
            return up(server) == "1.0"

        wait_until(is_back, 30)
        assert ask(server, access).status in (200, 429)


def up(server: ProxyServer) -> str:
    page = requests.get(f"{server.url}/metrics", timeout=10).text
    (value,) = re.findall(r"^proxy_limiter_up (\S+)", page, re.MULTILINE)
    return str(value)


def test_the_official_client(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(RATE_LIMIT_GLOBAL_RPM="2")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=access.token, max_retries=0) as client:
        for left in ("1", "0"):
            answer = client.models.with_raw_response.list()
            assert answer.headers[f"{OURS}-limit-requests"] == "2"
            assert answer.headers[f"{OURS}-remaining-requests"] == left
        with pytest.raises(openai.RateLimitError, match="all clients together") as caught:
            client.models.list()
    headers = caught.value.response.headers
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 30
    assert headers["x-ratelimit-limit-requests"] == "2"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"\d+s|1m0s", headers["x-ratelimit-reset-requests"])
    (_, _, event) = server.events(3)
    assert (event["status_code"], event["error_code"]) == (429, "rate_limit_exceeded")
    assert (event["outcome"], event["token_id"]) == ("rejected", access.token_id)


def test_the_official_client_waits_as_long_as_it_is_told(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(RATE_LIMIT_PER_TOKEN_RPM="30")
    while ask(server, access).status == 200:
        pass
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=access.token, max_retries=2) as client:
        answer = client.models.with_raw_response.list()
    assert answer.retries_taken <= 1, "it was told to wait long enough"


def test_the_upstream_s_own_limits_pass(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(RATE_LIMIT="50")
    answer = ask(server, access, model="error-429")
    assert (answer.status, answer.values("Retry-After")) == (429, ["7"])
    assert answer.values("x-ratelimit-remaining-requests") == ["0"]
    assert answer.values("x-ratelimit-limit-requests") == []
    assert answer.values(f"{OURS}-limit-requests") == ["50"]


def test_llm_tokens_per_minute(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started()
    narrow(server, "tokens", access.token_id, rate_limit_tpm=30)
    narrow(server, "projects", access.project_id, rate_limit_tpm=1000)
    first = ask(server, access, model="gpt-4.1-mini")  # 21 tokens
    assert first.values(f"{OURS}-remaining-tokens") == ["30"]
    ask(server, access, model="gpt-4.1-mini")
    server.events(2)  # an answer is charged behind its last byte
    refused = ask(server, access, model="gpt-4.1-mini")
    assert (refused.status, code(refused)) == (429, "rate_limit_exceeded")
    assert b"this access token: 30 tokens per minute" in refused.body
    assert refused.values("x-ratelimit-limit-tokens") == ["30"]
    assert refused.values("x-ratelimit-remaining-tokens") == ["0"]
    # 42 of 30 were used: one must be back, and what came back meanwhile has not to be waited for.
    assert 1 <= int(refused.values("Retry-After")[0]) <= 26
    assert ask(server, access).status == 429, "nor anything else that costs tokens"
    other = server.mint(access.project_id)
    assert ask(server, Access(access.project_id, other["id"], other["token"])).status == 200


def test_llm_tokens_in_redis(own_proxy: ProxyFactory, redis_server: RedisServer) -> None:
    server, access = own_proxy.started(REDIS_URL=redis_server.url)
    narrow(server, "tokens", access.token_id, rate_limit_tpm=20)
    assert ask(server, access, model="gpt-4.1-mini").status == 200
    # It is charged behind the answer, a moment later.
    wait_until(lambda: ask(server, access).status == 429)


def test_one_stream_at_a_time(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started()
    narrow(server, "projects", access.project_id, max_concurrent=2)
    narrow(server, "tokens", access.token_id, max_concurrent=1)
    with RawClient(server.port) as holding:
        holding.request("GET", "/v1/behave/silent-midstream", [access.bearer])
        assert "200" in holding.read_head()[0]
        for _ in range(6):  # in whichever worker
            refused = ask(server, access)
            assert (refused.status, code(refused)) == (429, "rate_limit_exceeded")
            assert refused.values("Retry-After") == ["1"]
            assert b"at once for this access token: 1 " in refused.body
    wait_until(lambda: ask(server, access).status == 200)
    # Whichever way each of them ends, and one after the other, nothing is left behind.
    for name in ("hang-up", "garbage", "cut-chunked", "gzip"):
        ask(server, access, f"/v1/behave/{name}")
        wait_until(lambda: ask(server, access).status == 200)


def test_one_websocket_at_a_time(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    narrow(server, "tokens", access.token_id, max_concurrent=1, rate_limit_tpm=100)
    first = Client(server.port, opening(access.token))
    accepted = first.next()
    assert isinstance(accepted, AcceptConnection)
    assert (b"x-proxy-ratelimit-limit-tokens", b"100") in accepted.extra_headers
    second = Client(server.port, opening(access.token))
    refused = second.next()
    assert isinstance(refused, RejectConnection)
    assert refused.status_code == 429
    for _ in range(12):  # 9 tokens each, charged at the end
        first.send("done")
    first.text()
    for _ in range(12):
        first.text()
    first.close()
    first.sock.close()
    second.sock.close()
    server.events(2)
    third = Client(server.port, opening(access.token))
    refused = third.next()
    assert isinstance(refused, RejectConnection)
    assert b"100 tokens per minute" in bytes(third.next().data)  # type: ignore[attr-defined]


def test_management_logins(own_proxy: ProxyFactory) -> None:
    server, _ = own_proxy.started(RATE_LIMIT="5", TRUSTED_PROXIES="1")
    wrong = {"Authorization": "Bearer wrong", "X-Forwarded-For": "203.0.113.7"}
    right = {"X-Forwarded-For": "203.0.113.7"}
    for _ in range(8):
        assert server.manage("GET", "/projects", headers=right).status_code == 200
    began = time.monotonic()
    statuses: Counter[int] = Counter()
    for _ in range(12):
        answer = requests.get(f"{server.url}/manage/projects", headers=wrong, timeout=20)
        statuses[answer.status_code] += 1
    came_back = math.floor((time.monotonic() - began) * 5 / 60)
    assert 5 <= statuses[401] <= 5 + came_back + 1
    assert answer.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(answer.headers["Retry-After"]) >= 1
    # The right token is not even compared, from there; from elsewhere nothing has happened.
    assert server.manage("GET", "/projects", headers=right).status_code == 429
    assert server.manage("GET", "/projects").status_code == 200
    assert requests.get(f"{server.url}/health", headers=wrong, timeout=20).status_code == 200
    bad = [("X-Forwarded-For", "203.0.113.7"), ("Authorization", "Bearer sk-wrong")]
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", bad)
        assert client.read_response().status == 429


def test_who_brings_a_key_of_their_own_has_an_address_too(own_proxy: ProxyFactory) -> None:
    server = own_proxy(AUTH_MODE="passthrough", RATE_LIMIT="2").start()
    statuses = []
    for number in range(4):
        answer = ask(server, Access("", "", f"sk-somebody-s-own-key-{number}"))
        statuses.append(answer.status)
    assert statuses == [200, 200, 429, 429]
