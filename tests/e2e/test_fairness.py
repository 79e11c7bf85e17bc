"""What one client, project or address may take of a worker, on the real server."""

import contextlib
import time
from collections.abc import Iterator

import pytest
import requests

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def upload(
    stack: contextlib.ExitStack, server: ProxyServer, access: Access, kind: str, size: int
) -> RawClient:
    """The head of a request whose body is still to come."""
    client = stack.enter_context(RawClient(server.port))
    lines = [access.bearer, ("Content-Type", kind), ("Content-Length", str(size))]
    client.request("POST", "/v1/behave/echo", lines)
    return client


def test_a_body_that_drips_is_408(
    own_proxy: ProxyFactory, clients: contextlib.ExitStack, upstream: Upstream
) -> None:
    """However long each of its reads would be waited for. Told by the server's own patience: 10 s
    of waiting, after which the rate holds."""
    server, access = own_proxy.started(MIN_BODY_RATE="10MiB", CLIENT_TIMEOUT="60")
    slow = upload(clients, server, access, "application/octet-stream", 1000)
    slow.sock.settimeout(0.2)
    answered = False
    for _ in range(150):
        with contextlib.suppress(TimeoutError):
            answered = bool(slow.sock.recv(1))
        if answered:
            break
        slow.send(b"x")
    assert answered
    slow.sock.settimeout(20)
    slow.reader.feed(b"H")
    answer = slow.read_response()
    assert (answer.status, error_of(answer)) == (408, "request_timeout")
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("rejected", "request_timeout")
    assert not any(request.complete for request in upstream.received)


def test_a_project_with_its_share_leaves_places_to_others(
    own_proxy: ProxyFactory, clients: contextlib.ExitStack, upstream: Upstream
) -> None:
    server, one = own_proxy.started(
        WEB_CONCURRENCY="1", MAX_CONCURRENT_REQUESTS="10", WORKER_CONNECTIONS="100"
    )
    project = server.create_project("other")
    other = Access(project["id"], "", server.mint(project["id"])["token"])
    for number in range(1, 9):
        client = clients.enter_context(RawClient(server.port))
        client.request("GET", "/v1/behave/silent", [one.bearer])
        wait_until(lambda count=number: len(upstream.received) == count)  # type: ignore[misc]
    for access, status in ((one, 503), (other, 200)) * 3:
        with RawClient(server.port) as client:
            client.request("GET", "/v1/models", [access.bearer])
            answer = client.read_response()
        assert answer.status == status
        if status == 503:
            assert error_of(answer) == "overloaded"
            assert answer.values("Retry-After") == ["1"]
            assert b"project has its share" in answer.body


@pytest.mark.parametrize("sent", [b"", b"GET /health HT"])
def test_connections_that_never_asked_give_way(
    own_proxy: ProxyFactory, clients: contextlib.ExitStack, sent: bytes
) -> None:
    server, access = own_proxy.started(
        WEB_CONCURRENCY="1", MAX_CONCURRENT_REQUESTS="20", WORKER_CONNECTIONS="50"
    )
    asking = clients.enter_context(RawClient(server.port))
    asking.request("GET", "/v1/models", [access.bearer])
    assert asking.read_response().status == 200
    silent = [clients.enter_context(RawClient(server.port)) for _ in range(80)]
    for client in silent:
        client.send(sent)
    began = time.monotonic()
    with RawClient(server.port) as client:
        client.request("GET", "/health")
        assert client.read_response().status == 200
    # Less than any time limit of the server's, of which nothing was set.
    assert time.monotonic() - began < 30
    assert silent[0].at_end(), "the oldest"
    asking.request("GET", "/v1/models", [access.bearer])
    assert asking.read_response().status == 200, "who has asked stays"


def test_held_bodies_are_bounded_together(
    own_proxy: ProxyFactory, clients: contextlib.ExitStack, upstream: Upstream
) -> None:
    server, access = own_proxy.started(
        WEB_CONCURRENCY="1", HELD_BODIES_MAX_BYTES="2MiB", MAX_JSON_BYTES="1MiB"
    )
    size = 1000_000
    assert _answer(server, access, 1000).status == 200, "the token is known from now on"
    held = upload(clients, server, access, "application/json", size)
    held.send(b"1" * (size - 1))
    # Before it is there, another one would take the room, and it would be refused itself.
    wait_until(lambda: _in_flight(server) == 1)
    wait_until(lambda: _answer(server, access, size).status == 503)
    answer = _answer(server, access, size)
    assert error_of(answer) == "overloaded"
    assert answer.values("Retry-After") == ["1"]
    asked = len(upstream.received)
    assert _answer(server, access, 1000).status == 200, "small ones have room of their own"
    assert len(upstream.received) == asked + 1
    held.send(b"1")
    assert held.read_response().status == 200
    assert _answer(server, access, size).status == 200


def _in_flight(server: ProxyServer) -> int:
    found: int = requests.get(f"{server.url}/stats", timeout=10).json()["requests"]["in_flight"]
    return found


def _answer(server: ProxyServer, access: Access, size: int) -> RawResponse:
    with contextlib.ExitStack() as stack:
        client = upload(stack, server, access, "application/json", size)
        client.send(b"1" * size)
        return client.read_response()
