"""``stream_usage: inject``: the usage is known, and the client sees what it would have seen."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.fake_upstream import Upstream, chat_events
from tests.support.proxy_access import Access, Call
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer

ASK = [{"role": "user", "content": "Hi"}]
JSON = ("Content-Type", "application/json")


@pytest.fixture(scope="module")
def injecting(proxy: ProxyServer) -> Access:
    project = proxy.create_project("injecting")
    assert project["stream_usage"] == "off"
    proxy.manage("PATCH", f"/projects/{project['id']}", {"stream_usage": "inject"})
    token = proxy.mint(project["id"])
    return Access(project["id"], token["id"], token["token"])


@pytest.fixture
def call(proxy: ProxyServer, upstream: Upstream, injecting: Access) -> Call:
    return Call(proxy, upstream, injecting)


@pytest.fixture
def client(proxy: ProxyServer, injecting: Access) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=injecting.token, max_retries=0) as made:
        yield made


@pytest.mark.parametrize(
    ("path", "options", "total"),
    [
        ("/v1/chat/completions", {}, 21),
        ("/v1/chat/completions", {"stream_options": None}, 21),
        ("/v1/chat/completions", {"stream_options": {}}, 21),
        ("/v1/chat/completions", {"stream_options": {"include_usage": False}}, 21),
        ("/v1/chat/completions", {"stream_options": {"include_obfuscation": False}}, 21),
        ("/v1/chat/completions", {"stream_options": {"include_usage": True}}, 21),
        ("/v1/completions", {}, 3),
    ],
)
def test_the_same_bytes_direct_and_relayed(
    call: Call, proxy: ProxyServer, path: str, options: dict[str, Any], total: int
) -> None:
    body = json.dumps({"model": "m\u00e9", "n": 1.50, "stream": True, **options}).encode()
    lines = [JSON, ("Accept-Encoding", "gzip, br")]
    direct = call.direct("POST", path, lines, body)
    assert call.last().body == body
    relayed = call.relayed("POST", path, lines, body)
    assert relayed.body == direct.body
    assert direct.clean
    assert relayed.clean
    asks = options.get("stream_options") == {"include_usage": True}
    assert (b'"usage"' in relayed.body) is asks
    assert (call.last().body == body) is asks
    assert call.last().values("Content-Length") == [str(len(call.last().body))]
    assert call.last().values("Accept-Encoding") == (["gzip"] if asks else ["identity"])
    (event,) = proxy.events(1)
    assert (event["usage_source"], event["metadata"]["total_tokens"]) == ("reported", total)
    assert (event["bytes_in"], event["bytes_out"]) == (len(body), len(relayed.body))


def test_the_official_client(client: openai.OpenAI, proxy: ProxyServer) -> None:
    stream = client.chat.completions.create(model="gpt-4.1-mini", messages=ASK, stream=True)  # type: ignore[call-overload]
    chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["One ", "two ", "three.", None]
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    (event,) = proxy.events(1)
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 21
    stream = client.chat.completions.create(  # type: ignore[call-overload]
        model="gpt-4.1-mini", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    assert [chunk.usage and chunk.usage.total_tokens for chunk in stream] == [None] * 4 + [21]
    proxy.events(1)


def test_each_event_comes_when_it_is_sent(
    proxy: ProxyServer, upstream: Upstream, injecting: Access
) -> None:
    body = json.dumps({"model": "gated", "stream": True}).encode()
    with RawClient(proxy.port) as client:
        client.request("POST", "/v1/chat/completions", [injecting.bearer, JSON], body)
        client.read_head()  # before the first event
        for event in chat_events(usage=False)[:-1]:
            upstream.gate.release()
            assert client.read_chunk() == event
        upstream.gate.release()  # the counts
        upstream.gate.release()
        assert client.read_chunk() == b"data: [DONE]\n\n"
        assert client.read_chunk() == b""
    assert proxy.events(1)[0]["usage_source"] == "reported"


def test_other_requests_are_left_alone(call: Call, proxy: ProxyServer) -> None:
    for path, body in [
        ("/v1/chat/completions", b'{"model":"m"}'),
        ("/v1/responses", b'{"model":"m","stream":true}'),
        ("/v1/behave/echo", b'{"stream":true}'),
    ]:
        answer = call.relayed("POST", path, [JSON], body)
        assert answer.status == 200
        assert call.last().body == body
        proxy.events(1)


@pytest.mark.parametrize("kind", ["nothing", "text.plain", "application.json"])
def test_a_stream_is_one_whatever_its_media_type(call: Call, proxy: ProxyServer, kind: str) -> None:
    path = f"/v1/behave/mislabelled/{kind}/chat/completions"
    body = b'{"model":"m","stream":true}'
    direct = call.direct("POST", path, [JSON], body)
    relayed = call.relayed("POST", path, [JSON], body)
    assert b'"include_usage":true' in call.last().body
    assert relayed.body == direct.body
    (event,) = proxy.events(1)
    assert (event["usage_source"], event["metadata"]["total_tokens"]) == ("reported", 21)
    assert event["stream"] is True


@pytest.mark.parametrize(
    ("path", "total"), [("picture/body", 100), ("picture/event", 100), ("odd-text", 21)]
)
def test_counts_behind_what_is_large_or_odd(
    call: Call, proxy: ProxyServer, path: str, total: int
) -> None:
    relayed = call.relayed("POST", f"/v1/behave/{path}", [JSON], b"{}")
    assert relayed.clean
    (event,) = proxy.events(1)
    assert (event["usage_source"], event["metadata"]["total_tokens"]) == ("reported", total)
