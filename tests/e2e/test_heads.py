"""Request heads as real clients send them: names with underscores, hosts, absolute targets."""

import json

import pytest

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, Call
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import MANAGEMENT_TOKEN, ProxyServer


def ask(port: int, request: bytes) -> RawResponse:
    with RawClient(port) as client:
        client.send(request)
        return client.read_response()


def test_a_name_with_underscores_is_relayed(call: Call) -> None:
    lines = [("session_id", "0193a1b2"), ("X_Team", "a"), ("X-Team", "b"), ("session_id", "2")]
    assert call.relayed("GET", "/v1/models", lines).status == 200
    sent = call.last()
    assert sent.values("session_id") == ["0193a1b2", "2"]
    assert (sent.values("X_Team"), sent.values("X-Team")) == (["a"], ["b"])
    call.proxy.events(1)


@pytest.mark.parametrize("name", ["X_Forwarded_For", "Content_Length", "X-Real_IP", "X_Api_Key"])
def test_the_twin_of_what_the_proxy_reads_is_named(call: Call, name: str) -> None:
    answer = call.relayed("GET", "/v1/models", [(name, "1")])
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert name.lower() in json.loads(answer.body)["error"]["message"]
    assert not call.upstream.received


def test_the_management_api_sees_no_underscores(proxy: ProxyServer) -> None:
    """Its environ makes one name of `X_A` and `X-A`; `SCRIPT_NAME` would even move its root."""
    head = f"Host: h\r\nAuthorization: Bearer {MANAGEMENT_TOKEN}\r\n"
    for line in ("SCRIPT_NAME: /manage", "Authorization_: x", "X_Request_ID: twin"):
        answer = ask(proxy.port, f"GET /manage/projects HTTP/1.1\r\n{head}{line}\r\n\r\n".encode())
        assert answer.status == 200
        assert answer.values("X-Proxy-Request-ID") != ["twin"]


def test_an_absolute_target_of_our_own(proxy: ProxyServer, access: Access, call: Call) -> None:
    own = f"http://127.0.0.1:{proxy.port}"
    assert call.relayed("GET", f"{own}/v1/models?x=1").status == 200
    assert call.last().target == "/v1/models?x=1"
    with RawClient(proxy.port) as client:
        for target in (f"{own}/health", "http://test/health", f"{own}/v1/models"):
            client.request("GET", target, [access.bearer])
            assert client.read_response().status == 200
    assert [event["endpoint"] for event in proxy.events(2)] == ["/v1/models"] * 2


def test_an_absolute_target_of_another_server(call: Call) -> None:
    answer = call.relayed("GET", "http://other.example/v1/models")
    assert (answer.status, error_of(answer)) == (400, "invalid_request")
    assert not call.upstream.received


def test_no_upgrade_in_http_1_0(proxy: ProxyServer, access: Access, upstream: Upstream) -> None:
    """RFC 9110 §7.8: the request is served as if it had none."""
    name, value = access.bearer
    lines = (
        f"Host: h\r\n{name}: {value}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = ask(proxy.port, b"GET /v1/behave/echo HTTP/1.0\r\n" + lines.encode())
    assert answer.status == 200
    assert not upstream.received[-1].values("Upgrade")
    proxy.events(1)
