"""Relayed against direct, byte for byte."""

import json

import pytest

from tests.support.comparable_response import comparable
from tests.support.fake_upstream import OWN_ORIGIN, Upstream
from tests.support.proxy_access import Access, Call, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"]
)
@pytest.mark.parametrize(
    "name",
    [
        "echo",
        "gzip",
        "trailers",
        "interim",
        "until-close",
        "no-content",
        "not-modified",
        "redirect",
    ],
)
def test_answers_are_the_upstreams(call: Call, proxy: ProxyServer, name: str, method: str) -> None:
    target = f"/v1/behave/{name}?a=1&a=2&empty=&plus=a+b&enc=%2F%20%zz"
    relayed = call.relayed(method, target)
    if name != "echo":
        assert comparable(relayed) == comparable(call.direct(method, target))
    assert relayed.status in (200, 204, 302, 304)
    assert proxy.events(1)[0]["outcome"] == "completed"


def test_odd_headers_survive(call: Call, proxy: ProxyServer) -> None:
    direct = call.direct("GET", "/v1/behave/odd-headers")
    relayed = call.relayed("GET", "/v1/behave/odd-headers")
    wanted = [item for item in comparable(direct)[1] if item[0] != "X-Hop"]
    status_line, headers, body, clean = comparable(relayed)
    assert (status_line, body, clean) == ("HTTP/1.1 299 Quite Odd", b"odd", True)
    assert headers == wanted
    assert relayed.values("Set-Cookie") == ["a=1; Path=/", "b=2; Path=/"]
    assert relayed.values("Server") == ["gunicorn"]
    proxy.events(1)


def test_words_of_the_upstream_about_its_own_origin_stay_there(
    call: Call, proxy: ProxyServer
) -> None:
    relayed = call.relayed("GET", "/v1/behave/own-origin")
    assert len(call.direct("GET", "/v1/behave/own-origin").headers) == len(OWN_ORIGIN) + 1
    assert [item for item in relayed.headers if item in OWN_ORIGIN] == [
        ("X-Content-Type-Options", "nosniff")
    ]
    names = {name.lower() for name, _ in relayed.headers}
    assert not names & {name.lower() for name, _ in OWN_ORIGIN if not name.startswith("X-")}
    proxy.events(1)


def test_only_event_streams_are_not_to_be_buffered(call: Call, proxy: ProxyServer) -> None:
    body = b'{"model": "gpt-4.1", "stream": true, "messages": []}'
    json_type = ("Content-Type", "application/json")
    stream = call.relayed("POST", "/v1/chat/completions", [json_type], body)
    assert stream.values("X-Accel-Buffering") == ["no"]
    assert not call.relayed("GET", "/v1/models").values("X-Accel-Buffering")
    proxy.events(2)


def test_ipv4_on_a_dual_stack_socket_is_ipv4(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(HOST="::", WEB_CONCURRENCY="1")
    token = server.mint(access.project_id, allowed_ips=["127.0.0.1"])["token"]
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", [("Authorization", f"Bearer {token}")])
        assert client.read_response().status == 200
        client.request("GET", "/v1/models", [access.bearer])
        assert client.read_response().status == 200
    assert [event["client_ip"] for event in server.events(2)] == ["127.0.0.1"] * 2


def test_a_missing_reason_stays_missing(call: Call, proxy: ProxyServer) -> None:
    assert call.relayed("GET", "/v1/behave/no-reason").status_line.rstrip() == "HTTP/1.1 200"
    proxy.events(1)


def test_the_request_arrives_as_sent(call: Call, proxy: ProxyServer) -> None:
    headers = [
        ("User-Agent", "test/1"),
        ("X-First", "1"),
        ("Cookie", "a=1"),
        ("X-Empty", ""),
        ("Cookie", "b=2"),
        ("X-First", "2"),
        ("X-Latin", "caf\xe9"),
        ("Accept-Encoding", "br, gzip;q=0.5, zstd"),
        ("OpenAI-Organization", "org"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("CF-Connecting-IP", "10.0.0.1"),
        ("Fly-Client-IP", "10.0.0.1"),
        ("X-Envoy-External-Address", "10.0.0.1"),
        ("CloudFront-Viewer-Address", "10.0.0.1:443"),
        ("X-Amzn-Oidc-Accesstoken", "secret"),
        ("cf-aig-cache-ttl", "60"),
        ("Connection", "X-Mine, keep-alive"),
        ("X-Mine", "hop"),
        ("TE", "trailers"),
        ("Keep-Alive", "timeout=5"),
        ("Content-Type", "text/plain"),
    ]
    target = "/v1/behave/echo//a%2Fb/%e4?x=%41&y=a+b&z=&x=2&q=%"
    call.relayed("PUT", target, headers, b"body \x00\xff")
    sent = call.last()
    assert (sent.method, sent.target, sent.body) == ("PUT", target, b"body \x00\xff")
    assert sent.headers == [
        ("Host", f"127.0.0.1:{call.upstream.port}"),
        ("User-Agent", "test/1"),
        ("X-First", "1"),
        ("Cookie", "a=1"),
        ("X-Empty", ""),
        ("Cookie", "b=2"),
        ("X-First", "2"),
        ("X-Latin", "caf\xe9"),
        ("Accept-Encoding", "gzip;q=0.5"),
        ("Openai-Organization", "org"),
        ("Cf-Aig-Cache-Ttl", "60"),
        ("Content-Type", "text/plain"),
        ("Content-Length", "7"),
        ("Authorization", f"Bearer {UPSTREAM_KEY}"),
    ]
    proxy.events(1)


def test_nothing_is_added_to_a_bare_request(call: Call, proxy: ProxyServer) -> None:
    call.relayed("GET", "/v1/behave/echo")
    assert [name for name, _ in call.last().headers] == ["Host", "Authorization"]
    proxy.events(1)


def test_json_bytes_are_not_rewritten(call: Call, proxy: ProxyServer) -> None:
    body = b'{ "a" : 1.0, "a":2,\n"u":"\\u00e9\xc3\xa9" }'
    relayed = call.relayed("POST", "/v1/behave/echo", [("Content-Type", "application/json")], body)
    assert json.loads(relayed.body)["body"].encode("latin-1") == body
    proxy.events(1)


def test_a_chunked_upload_stays_chunked(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\n"
            b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\n\r\n"
        )
        assert client.read_response().status == 200
    sent = upstream.received[-1]
    assert sent.body == b"abcdefg"
    assert sent.values("Transfer-Encoding") == ["chunked"]
    assert not sent.values("Content-Length")
    assert proxy.events(1)[0]["bytes_in"] == 7


def test_an_upload_is_passed_on_while_it_comes(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    """The upstream has the first half before the second is sent."""
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/behave/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\n12345"
        )
        wait_until(lambda: bool(upstream.received) and upstream.received[-1].body == b"12345")
        assert not upstream.received[-1].complete
        client.send(b"67890")
        assert client.read_response().status == 200
    assert upstream.received[-1].body == b"1234567890"
    proxy.events(1)


def test_one_connection_serves_many_requests(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with RawClient(proxy.port) as client:
        for _ in range(5):
            client.request("GET", "/v1/models", [access.bearer])
            answer = client.read_response()
            assert answer.status == 200
            assert answer.values("Connection") == ["keep-alive"]
    assert len(upstream.received) == 5
    assert upstream.connections <= 1, "the upstream's connection is kept, too"
    proxy.events(5)


def test_pipelined_requests_are_answered_in_order(proxy: ProxyServer, access: Access) -> None:
    with RawClient(proxy.port) as client:
        for number in (1, 2, 3):
            client.request("GET", f"/v1/behave/echo?{number}", [access.bearer])
        targets = [json.loads(client.read_response().body)["target"] for _ in range(3)]
    assert targets == [f"/v1/behave/echo?{number}" for number in (1, 2, 3)]
    proxy.events(3)


def test_http_1_0_gets_no_chunks(proxy: ProxyServer, access: Access) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"GET /v1/behave/trailers HTTP/1.0\r\nAuthorization: Bearer "
            + access.token.encode()
            + b"\r\n\r\n"
        )
        answer = client.read_response()
    assert (answer.body, answer.values("Transfer-Encoding")) == (b"body", [])
    proxy.events(1)
