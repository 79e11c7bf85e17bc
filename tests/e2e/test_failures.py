"""Upstreams that cannot be reached, are silent or talk garbage; clients that leave."""

import json
import socket

import pytest

from tests.support.fake_upstream import Upstream
from tests.support.ports import free_port
from tests.support.proxy_access import Access, Call, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.raw_requests import error_of
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


@pytest.mark.parametrize("name", ["hang-up", "reset", "garbage", "half-head", "both-lengths"])
def test_no_valid_answer_is_502(call: Call, proxy: ProxyServer, name: str) -> None:
    answer = call.relayed("GET", f"/v1/behave/{name}")
    assert (answer.status, error_of(answer)) == (502, "upstream_broken")
    (event,) = proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_broken")
    assert event["status_code"] == 502


@pytest.mark.parametrize("name", ["cut-chunked", "cut-length"])
def test_a_cut_answer_breaks_for_the_client_too(call: Call, proxy: ProxyServer, name: str) -> None:
    answer = call.relayed("GET", f"/v1/behave/{name}")
    assert answer.status == 200
    assert not answer.clean
    assert b"[DONE]" not in answer.body
    (event,) = proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_broken")
    assert event["bytes_out"] == len(answer.body) > 0


def test_a_cut_answer_is_a_reset_for_http_1_0(proxy: ProxyServer, access: Access) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"GET /v1/behave/cut-chunked HTTP/1.0\r\nAuthorization: Bearer "
            + access.token.encode()
            + b"\r\n\r\n"
        )
        client.read_head()
        with pytest.raises(ConnectionResetError):
            read_to_end(client)
    proxy.events(1)


def read_to_end(client: RawClient) -> None:
    while client.sock.recv(65536):
        pass


def test_unreachable_is_502(own_proxy: ProxyFactory) -> None:
    refused = f"http://127.0.0.1:{free_port()}"
    for url in (
        refused,
        "http://no-such-host.invalid",
        f"https://127.0.0.1:{own_proxy._upstream.port}",
    ):
        server, access = own_proxy.started(UPSTREAM_BASE_URL=url, WEB_CONCURRENCY="1")
        with RawClient(server.port) as client:
            client.request("GET", "/v1/models", [access.bearer])
            answer = client.read_response()
            assert (answer.status, error_of(answer)) == (502, "upstream_unreachable")
            client.request("GET", "/health")
            assert client.read_response().status == 200, "the worker lives"
        (event,) = server.events(1)
        assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_unreachable")


def test_silence_is_504_and_breaks_a_stream(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(UPSTREAM_READ_TIMEOUT="0.3")
    with RawClient(server.port) as client:
        client.request("GET", "/v1/behave/silent", [access.bearer])
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (504, "upstream_timeout")
    assert upstream.left.wait(20), "the upstream's connection is dropped"
    with RawClient(server.port) as client:
        client.request("GET", "/v1/behave/silent-midstream", [access.bearer])
        answer = client.read_response()
    assert (answer.status, answer.clean) == (200, False)
    assert [(e["outcome"], e["error_code"]) for e in server.events(2)] == [
        ("aborted", "upstream_timeout")
    ] * 2


@pytest.mark.parametrize("name", ["silent", "silent-midstream", "flood"])
def test_a_client_that_leaves_cancels_the_upstream(
    proxy: ProxyServer, upstream: Upstream, access: Access, name: str
) -> None:
    client = RawClient(proxy.port)
    client.request("GET", f"/v1/behave/{name}", [access.bearer])
    assert upstream.asked.wait(20)
    if name != "silent":
        client.read_head()
        assert client.read_chunk()
    client.sock.close()
    assert upstream.left.wait(20)
    (event,) = proxy.events(1)
    assert (event["outcome"], event["error_code"]) == ("client_gone", None)
    assert event["status_code"] == (499 if name == "silent" else 200)


def test_a_client_that_leaves_after_a_long_upload(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    """The watching begins when the body has ended."""
    client = RawClient(proxy.port)
    client.request("POST", "/v1/behave/silent", [access.bearer], b"x" * 300_000)
    assert upstream.asked.wait(20)
    client.sock.close()
    assert upstream.left.wait(20)
    assert proxy.events(1)[0]["outcome"] == "client_gone"


def test_an_early_answer_is_relayed_while_the_upload_goes_on(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/behave/early-refusal HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\n" + b"x" * 1000
        )
        answer = client.read_response()
        assert answer.status == 413
        assert json.loads(answer.body)["error"]["message"] == "too large for me"
        assert answer.values("Connection") == ["close"]
    assert upstream.left.wait(20)
    assert proxy.events(1)[0]["status_code"] == 413


def test_a_connection_that_died_idle_is_replaced(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1")
    with RawClient(server.port) as client:
        for _ in range(3):
            # "until-close" ends its connection after the answer, "models" keeps it.
            client.request("GET", "/v1/models", [access.bearer])
            assert client.read_response().status == 200
            client.request("POST", "/v1/behave/until-close", [access.bearer], b"x")
            assert client.read_response().body == b"until the end"
    assert len(server.events(6)) == 6


def test_a_client_that_reads_nothing_is_cut(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(CLIENT_TIMEOUT="0.5")
    with RawClient(server.port) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.request("GET", "/v1/behave/flood", [access.bearer])
        assert upstream.left.wait(30)
    assert server.events(1)[0]["outcome"] == "client_gone"
    wait_until(lambda: "Traceback" not in server.log_text())
