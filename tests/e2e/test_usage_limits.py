"""Limits of LLM tokens on the real server: their holder cannot choose not to be counted."""

import json
import os
import signal
from collections import Counter

import gevent
import pytest
import requests

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

CHAT = b'{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"hi"}]%b}'


@pytest.fixture(scope="module")
def limited(proxy: ProxyServer) -> tuple[ProxyServer, str]:
    return proxy, proxy.create_project("limited usage")["id"]


def post(server: ProxyServer, token: str, body: bytes) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return requests.post(
        f"{server.url}/v1/chat/completions", data=body, headers=headers, timeout=30
    )


@pytest.mark.parametrize(
    ("members", "status"),
    [
        (b',"stream":true', 200),
        (b',"stream":true,"stream_options":null', 200),
        (b',"str\\u0065am":true,"stream_options":{"include_us\\u0061ge":false}', 200),
        (b',"stream":true,"metadata":[' + b"[]," * 40_000 + b"1]", 200),
        (b',"stream":true,"x":"' + b" " * (5 << 20) + b'"', 200),
        (b',"stream":true,"stream":true', 400),
        (b',"stream":true,"stream_options":{},"stream_options":{}', 400),
        (b',"stream":true,"stream_options":{"include_usage":0}', 400),
        (b',"stream":"true"', 400),
        (b',"stream":1', 400),
    ],
)
def test_every_form_of_a_stream_counts_or_is_refused(
    limited: tuple[ProxyServer, str], members: bytes, status: int
) -> None:
    server, project_id = limited
    token = server.mint(project_id, max_tokens_total=21)
    statuses = []

    def ask() -> requests.Response:
        answer = post(server, token["token"], CHAT % members)
        statuses.append(answer.status_code)
        return answer

    answer = ask()
    assert answer.status_code == status
    assert b'"usage"' not in answer.content
    if status == 200:
        wait_until(
            lambda: server.manage("GET", f"/tokens/{token['id']}").json()["tokens_used"] == 21
        )
        wait_until(lambda: ask().status_code == 429)
    events = server.events(len(statuses))
    assert sorted(event["status_code"] for event in events) == sorted(statuses)


def test_what_reports_nothing_is_estimated(own_proxy: ProxyFactory) -> None:
    """The behaviour `echo` answers a chat with what it was sent, and reports nothing."""
    server, access = own_proxy.started()
    token = server.mint(access.project_id, rate_limit_tpm=1000, max_tokens_total=1000)
    answer = requests.post(
        f"{server.url}/v1/behave/echo/chat/completions",
        json={"messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 5},
        headers={"Authorization": f"Bearer {token['token']}"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    (event,) = server.events(1)
    assert (event["usage_source"], event["estimate_method"]) == ("estimated", "bytes")
    counted = event["metadata"]["estimated_prompt_tokens"]
    counted += event["metadata"]["estimated_completion_tokens"]
    assert counted >= 100
    assert "prompt_tokens" not in event["metadata"]
    wait_until(
        lambda: server.manage("GET", f"/tokens/{token['id']}").json()["tokens_used"] == counted
    )


#: Holds what it costs, 21 LLM tokens: 9 of its text, and 12 of output.
GATED = json.dumps(
    {
        "model": "gated",
        "stream": True,
        "max_tokens": 12,
        "messages": [{"role": "user", "content": "x" * 36}],
    }
).encode()


def begin(server: ProxyServer, token: str, target: str = "/v1/chat/completions") -> RawClient:
    """A request on a connection of its own, so that any worker may have it."""
    client = RawClient(server.port, timeout=60)
    bearer = ("Authorization", f"Bearer {token}")
    client.request("POST", target, [bearer, ("Content-Type", "application/json")], GATED)
    return client


def test_workers_let_in_together_no_more_than_the_total_covers(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="2")
    token = server.mint(access.project_id, max_tokens_total=210)
    clients = [begin(server, token["token"]) for _ in range(40)]
    statuses = Counter[str]()
    answers = []

    def read(client: RawClient) -> None:
        def count() -> None:
            statuses.update(["begun"])

        answers.append(client.read_response(midway=count))

    jobs = [gevent.spawn(read, client) for client in clients]
    wait_until(lambda: statuses["begun"] == 40)
    for _ in range(1000):
        upstream.gate.release()
    gevent.joinall(jobs, timeout=60)
    assert Counter(answer.status for answer in answers) == {200: 10, 429: 30}
    refused = [json.loads(answer.body)["error"] for answer in answers if answer.status == 429]
    assert {error["code"] for error in refused} == {"rate_limit_exceeded"}

    def used() -> int:
        return int(server.manage("GET", f"/tokens/{token['id']}").json()["tokens_used"])

    wait_until(lambda: used() == 210)
    after = [post(server, token["token"], CHAT % b"") for _ in range(8)]
    assert {answer.json()["error"]["code"] for answer in after} == {"quota_exceeded"}


@pytest.mark.parametrize("way", ["left", "broken", "refused", "killed"])
def test_what_a_request_held_is_free_again(
    own_proxy: ProxyFactory, upstream: Upstream, way: str
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="2")
    token = server.mint(access.project_id, max_tokens_total=20)
    if way == "broken":
        client = begin(server, token["token"], "/v1/behave/garbage/chat/completions")
        assert client.read_response().status == 502
    elif way == "refused":
        client = begin(server, token["token"], "/v1/behave/no-such-name/chat/completions")
        assert client.read_response().status == 404
    else:
        client = begin(server, token["token"])
        assert "200" in client.read_head()[0]
        held = post(server, token["token"], CHAT % b"")
        assert (held.status_code, held.headers["Retry-After"]) == (429, "1")
        assert "max_tokens" in held.json()["error"]["message"]
    client.sock.close()
    if way == "killed":
        for worker in server.worker_pids():
            os.kill(worker, signal.SIGKILL)
    wait_until(lambda: post(server, token["token"], CHAT % b"").status_code == 200)
