"""Limits of LLM tokens on the real server: their holder cannot choose not to be counted."""

import pytest
import requests

from tests.e2e.conftest import Maker
from tests.server import ProxyServer
from tests.waiting import wait_until

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
    answer = post(server, token["token"], CHAT % members)
    assert answer.status_code == status
    assert b'"usage"' not in answer.content
    if status == 200:
        wait_until(
            lambda: server.manage("GET", f"/tokens/{token['id']}").json()["tokens_used"] == 21
        )
        wait_until(lambda: post(server, token["token"], CHAT % members).status_code == 429)


def test_what_reports_nothing_is_estimated(own_proxy: Maker) -> None:
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
