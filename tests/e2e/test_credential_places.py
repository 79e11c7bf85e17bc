"""The access token where other SDKs put it, through the real server."""

import openai
import pytest
import requests
from wsproto.events import AcceptConnection, Request

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, Call, ProxyFactory
from tests.support.raw_client import Headers, RawClient
from tests.support.raw_requests import error_of
from tests.support.realtime import Client, Realtime
from tests.support.server import UPSTREAM_KEY, ProxyServer

ASK = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("base", ["/v1", "/v1/deployments/gpt-4.1-mini"])
def test_the_official_client_for_azure(
    proxy: ProxyServer, upstream: Upstream, access: Access, base: str
) -> None:
    with openai.AzureOpenAI(
        base_url=proxy.url + base, api_key=access.token, api_version="2024-10-21", max_retries=0
    ) as client:
        answer = client.chat.completions.create(model="gpt-4.1-mini", messages=ASK)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == "Hello there."
    sent = upstream.received[-1]
    assert sent.target == ("/v1/deployments/gpt-4.1-mini/chat/completions?api-version=2024-10-21")
    assert sent.values("Authorization") == [f"Bearer {UPSTREAM_KEY}"]
    assert sent.values("api-key") == []
    (event,) = proxy.events(1)
    assert (event["token_id"], event["status_code"]) == (access.token_id, 200)
    assert event["metadata"]["total_tokens"] == 21


def test_every_place(proxy: ProxyServer, call: Call, access: Access) -> None:
    token = access.token
    encoded = "".join(f"%{ord(letter):02x}" for letter in token)
    cases: list[tuple[str, Headers]] = [
        ("", [("x-api-key", token)]),
        ("", [("API-KEY", token), ("Api-Key", token)]),
        ("", [("X-Goog-Api-Key", token), access.bearer]),
        (f"?key={token}", []),
        (f"?%6bey={encoded};key={token}", [access.bearer, ("x-api-key", token)]),
        ("", [("Authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", token)]),
        ("", [access.bearer, ("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{token}")]),
    ]
    for query, headers in cases:
        with RawClient(proxy.port) as client:
            client.request("GET", f"/v1/models{query}", headers)
            assert client.read_response().status == 200, (query, headers)
        sent = call.last()
        assert sent.target == "/v1/models"
        assert token not in str(sent.headers)
        assert sent.values("Authorization") == [f"Bearer {UPSTREAM_KEY}"]
    events = proxy.events(len(cases))
    assert {event["token_id"] for event in events} == {access.token_id}
    assert {event["endpoint"] for event in events} == {"/v1/models"}


def test_keys_of_others_pass(call: Call) -> None:
    lines = [("x-api-key", "foreign"), ("api-key", "b"), ("x-goog-api-key", "c")]
    assert call.relayed("GET", "/v1/models?key=AIza&x=%2f;y", lines).status == 200
    sent = call.last()
    assert sent.target == "/v1/models?key=AIza&x=%2f;y"
    assert [sent.values(name) for name, _ in lines] == [[value] for _, value in lines]
    call.proxy.events(1)


def test_two_that_differ(proxy: ProxyServer, upstream: Upstream, access: Access) -> None:
    other = proxy.mint(access.project_id)["token"]
    for target, headers in (
        ("/v1/models", [access.bearer, ("x-api-key", other)]),
        ("/v1/models", [access.bearer, ("Authorization", f"Bearer {other}")]),
        (f"/v1/models?key={other}", [access.bearer]),
        (f"/v1/proxy/tokens?key={other}", [access.bearer]),
    ):
        with RawClient(proxy.port) as client:
            client.request("GET", target, headers)
            refused = client.read_response()
        assert (refused.status, error_of(refused)) == (400, "invalid_request")
        assert other.encode() not in refused.body
    assert not upstream.received
    # Minting makes no event.
    assert {event["error_code"] for event in proxy.events(3)} == {"invalid_request"}


@pytest.mark.parametrize("name", ["x_api_key", "API_KEY", "x_goog-api_key", "authorization_"])
def test_a_twin_with_underscores(proxy: ProxyServer, access: Access, name: str) -> None:
    with RawClient(proxy.port) as client:
        client.request("GET", "/v1/models", [(name, access.token)])
        refused = client.read_response()
    expected = 401 if name == "authorization_" else 400  # that one is the twin of no name
    assert refused.status == expected
    proxy.events(1 if expected == 401 else 0)  # the parser's refusals make none


def test_a_token_is_minted_with_any_of_them(proxy: ProxyServer, access: Access) -> None:
    parent = proxy.mint(access.project_id, can_mint=True)["token"]
    url = f"{proxy.url}/v1/proxy/tokens"
    body = {"duration_minutes": 5}
    for name in ("x-api-key", "api-key", "x-goog-api-key"):
        assert requests.post(url, json=body, headers={name: parent}, timeout=30).status_code == 201
    assert requests.post(f"{url}?key={parent}", json=body, timeout=30).status_code == 201
    assert requests.post(f"{url}?key=foreign", json=body, timeout=30).status_code == 401


def test_a_websocket(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(
        UPSTREAM_BASE_URL=realtime.url, WEB_CONCURRENCY="1", ACCESS_LOG="on"
    )
    token = access.token
    protocols = ["realtime", f"openai-insecure-api-key.{token}"]
    for query, lines, offered in (
        ("", [("api-key", token)], []),
        (f"&key={token}", [], []),
        (f"&key={token}", [("x-api-key", token)], protocols),
    ):
        target = f"/v1/realtime?model=gpt-realtime{query}"
        headers = [(name.encode(), value.encode()) for name, value in lines]
        client = Client(
            server.port, Request("t", target, extra_headers=headers, subprotocols=offered)
        )
        assert isinstance(client.next(), AcceptConnection)
        client.close()
        client.sock.close()
        sent = realtime.requests[-1]
        assert sent.target == "/v1/realtime?model=gpt-realtime"
        assert token not in str((sent.extra_headers, sent.subprotocols))
    events = server.events(3)
    assert {event["token_id"] for event in events} == {access.token_id}
    # The end of the run looks for tokens in all logs; here, also for what is left of the query.
    assert server.stop() == 0
    assert "key=" not in server.log_text()


def test_pass_through_touches_none_of_them(
    own_proxy: ProxyFactory, upstream: Upstream, access: Access
) -> None:
    server = own_proxy(AUTH_MODE="passthrough", WEB_CONCURRENCY="1").start()
    target = f"/v1/models?key={access.token}"
    lines = [("x-api-key", access.token), ("api-key", "sk-" + "z" * 22)]
    with RawClient(server.port) as client:
        client.request("GET", target, [("Authorization", f"Bearer {UPSTREAM_KEY}"), *lines])
        assert client.read_response().status == 200
    sent = upstream.received[-1]
    assert sent.target == target
    assert [sent.values(name) for name, _ in lines] == [[value] for _, value in lines]
