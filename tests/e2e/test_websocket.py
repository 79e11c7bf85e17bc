"""WebSockets through the proxy: a foreign implementation (wsproto) at both ends."""

import json
from pathlib import Path

from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Pong,
    RejectConnection,
    Request,
)

from tests.support.certificates import Authority
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.raw_requests import error_of
from tests.support.realtime import DONE, SAYINGS, Client, Realtime, opening
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until


def converse(server: ProxyServer, access: Access, realtime: Realtime) -> None:
    client = Client(server.port, opening(access.token))
    accepted = client.next()
    assert isinstance(accepted, AcceptConnection)
    names = {name.lower() for name, _ in accepted.extra_headers}
    assert b"x-proxy-request-id" in names
    assert json.loads(client.text())["type"] == "session.created"
    client.send("hello")
    assert client.text() == "echo hello"
    client.ping()
    assert isinstance(client.next(), Pong)
    blob = bytes(range(256)) * 4000
    client.send(blob)
    got = b""
    while len(got) < len(blob):
        event = client.next()
        assert isinstance(event, BytesMessage)
        got += event.data
    assert got == blob
    client.send("done")
    assert json.loads(client.text()) == DONE
    client.send("done")
    assert json.loads(client.text()) == DONE
    client.close()
    assert isinstance(client.next(), CloseConnection)
    client.sock.close()
    assert realtime.closed.wait(20)
    sent = realtime.requests[-1]
    assert sent.target == "/v1/realtime?model=gpt-realtime"
    lines = {name.lower(): value for name, value in sent.extra_headers}
    assert lines[b"authorization"] == f"Bearer {UPSTREAM_KEY}".encode()
    assert lines[b"openai-beta"] == b"realtime=v1"
    assert sent.extensions == []
    (event,) = server.events(1)
    assert (event["status_code"], event["outcome"]) == (101, "completed")
    assert event["bytes_in"] > len(blob)
    assert event["bytes_out"] > len(blob)
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 18
    assert event["metadata"]["model"] == "gpt-realtime"
    assert event["token_id"] == access.token_id


def test_a_conversation(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url, WEB_CONCURRENCY="1")
    converse(server, access, realtime)
    converse(server, access, realtime)


def test_all_that_is_billed_counts(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    limited = server.mint(access.project_id, max_tokens_total=10)["token"]
    client = Client(server.port, opening(limited, "/v1/responses"))
    assert isinstance(client.next(), AcceptConnection)
    assert json.loads(client.text())["type"] == "session.created"
    for name, said in SAYINGS.items():
        client.send(name)
        assert client.text() == said
    client.close()
    client.sock.close()
    (event,) = server.events(1)
    assert event["usage_source"] == "reported"
    counted = len(SAYINGS) - 1  # all but the one that is no JSON
    assert event["metadata"]["total_tokens"] == 2 * counted

    def refused() -> bool:
        other = Client(server.port, opening(limited, "/v1/responses"))
        answer = other.next()
        other.sock.close()
        return isinstance(answer, RejectConnection) and answer.status_code == 429

    wait_until(refused)


def test_a_tls_upstream(own_proxy: ProxyFactory, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    realtime = Realtime(authority.server("localhost"))
    try:
        server, access = own_proxy.started(
            UPSTREAM_BASE_URL=realtime.url, SSL_CERT_FILE=str(authority.ca_file)
        )
        converse(server, access, realtime)
    finally:
        realtime.stop()


def test_a_browsers_token_comes_in_a_subprotocol(
    own_proxy: ProxyFactory, realtime: Realtime
) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    protocols = ["realtime", f"openai-insecure-api-key.{access.token}", "openai-beta.realtime-v1"]
    client = Client(server.port, Request(host="t", target="/v1/realtime", subprotocols=protocols))
    accepted = client.next()
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "realtime"
    sent = realtime.requests[-1]
    assert sent.subprotocols == ["realtime", "openai-beta.realtime-v1"]
    lines = {name.lower(): value for name, value in sent.extra_headers}
    assert lines[b"authorization"] == f"Bearer {UPSTREAM_KEY}".encode()
    assert access.token not in repr(sent)
    client.sock.close()
    assert server.events(1)[0]["outcome"] == "completed"


def test_refusals_are_ours_or_the_upstreams(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]
    with RawClient(server.port) as client:
        client.request("GET", "/v1/realtime", upgrade)
        answer = client.read_response()
        assert (answer.status, error_of(answer)) == (401, "invalid_token")
        assert not realtime.requests
        client.request("GET", "/v1/refuse", [access.bearer, *upgrade])
        answer = client.read_response()
        assert (answer.status, answer.body) == (403, b"{}")
    assert [e["outcome"] for e in server.events(2)] == ["rejected", "completed"]


def test_both_sides_leaving_passes(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url)
    client = Client(server.port, opening(access.token))
    client.next()
    client.text()
    client.sock.close()
    assert realtime.closed.wait(20), "a client that drops ends the upstream's connection"
    realtime.closed.clear()
    client = Client(server.port, opening(access.token))
    client.next()
    client.text()
    client.send("drop")
    assert client.sock.recv(100) == b"", "an upstream that drops ends the client's"
    client.sock.close()
    server.events(2)


def test_a_stop_ends_tunnels(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(
        UPSTREAM_BASE_URL=realtime.url, WEB_CONCURRENCY="1", GRACEFUL_TIMEOUT="4"
    )
    client = Client(server.port, opening(access.token))
    client.next()
    client.text()
    server.terminate()
    last = client.next()
    assert isinstance(last, CloseConnection)
    assert (last.code, last.reason) == (1001, "draining")
    assert client.sock.recv(100) == b""
    assert server.wait() == 0
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "draining")


def test_an_unreachable_upstream_is_502(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL="http://127.0.0.1:9")
    with RawClient(server.port) as client:
        headers = [access.bearer, ("Connection", "Upgrade"), ("Upgrade", "websocket")]
        client.request("GET", "/v1/realtime", headers)
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (502, "upstream_unreachable")
    wait_until(lambda: len(server.events(1)) == 1)
