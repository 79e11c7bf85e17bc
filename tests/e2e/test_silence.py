"""Streams whose upstream is silent: kept alive on wish; read to their end on wish."""

import json

import gevent

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

JSON = ("Content-Type", "application/json")
CHAT = {"model": "gated", "messages": [], "stream": True, "stream_options": {"include_usage": True}}


def stream(server: ProxyServer, access: Access) -> RawClient:
    client = RawClient(server.port)
    body = json.dumps(CHAT).encode()
    client.request("POST", "/v1/chat/completions", [access.bearer, JSON], body)
    client.read_head()
    return client


def test_pings_at_event_borders_only(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(SSE_KEEPALIVE="0.1")
    with stream(server, access) as client:
        assert client.read_chunk() == b": ping\n\n"
        assert client.read_chunk() == b": ping\n\n"
        upstream.gate.release()
        while (chunk := client.read_chunk()) == b": ping\n\n":
            pass
        assert chunk is not None
        assert chunk.startswith(b"data: ")
        assert client.read_chunk() == b": ping\n\n"
        for _ in range(10):
            upstream.gate.release()
        rest = b""
        while chunk := client.read_chunk():
            rest += chunk
        assert chunk == b"", "the stream ended cleanly"
        assert rest.replace(b": ping\n\n", b"").endswith(b"data: [DONE]\n\n")
    (event,) = server.events(1)
    assert (event["outcome"], event["metadata"]["total_tokens"]) == ("completed", 21)
    with RawClient(server.port) as client:
        client.request("GET", "/v1/behave/half-event", [access.bearer])
        client.read_head()
        assert client.read_chunk()
        client.sock.settimeout(0.5)
        try:
            chunk = client.read_chunk()
        except TimeoutError:
            chunk = b"nothing"
        assert chunk == b"nothing", "no ping within an event"
    server.events(1)


def test_silence_still_ends_at_the_read_timeout(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(SSE_KEEPALIVE="0.1", UPSTREAM_READ_TIMEOUT="0.5")
    with stream(server, access) as client:
        pings = 0
        while chunk := client.read_chunk():
            assert chunk == b": ping\n\n"
            pings += 1
        assert chunk is None, "broken off"
        assert pings >= 2
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "upstream_timeout")


def test_a_draining_project_reads_on(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(AUTH_CACHE_TTL="0")
    server.manage("PATCH", f"/projects/{access.project_id}", {"on_disconnect": "drain"})
    client = stream(server, access)
    upstream.gate.release()
    assert client.read_chunk()
    client.sock.close()
    for _ in range(10):
        # One by one: the first write to a client that has left still succeeds.
        upstream.gate.release()
        gevent.sleep(0.05)
    (event,) = server.events(1)
    assert event["outcome"] == "client_gone"
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 21


def test_a_draining_project_reads_a_buffered_answer_too(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    """The client leaves before the head."""
    server, access = own_proxy.started(AUTH_CACHE_TTL="0")
    server.manage("PATCH", f"/projects/{access.project_id}", {"on_disconnect": "drain"})
    client = RawClient(server.port)
    client.request("GET", "/v1/behave/gated-json", [access.bearer])
    wait_until(lambda: bool(upstream.received))
    client.sock.close()
    upstream.gate.release()
    (event,) = server.events(1)
    assert event["usage_source"] == "reported"
    assert event["metadata"]["total_tokens"] == 21


def test_a_cancelling_project_says_what_was_seen(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started()
    client = stream(server, access)
    upstream.gate.release()
    assert client.read_chunk()
    client.sock.close()
    (event,) = server.events(1)
    assert (event["outcome"], event["usage_source"]) == ("client_gone", "none")
    assert event["metadata"]["model"] == "gpt-4.1-mini"
