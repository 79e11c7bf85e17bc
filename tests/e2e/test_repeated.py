"""What an upstream that closes kept-alive connections is asked twice, and what it is not."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import gevent
import pytest

from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.server import ProxyServer
from tests.support.wire_server import OK, Connection, Request, WireServer


@dataclass
class Closing:
    """An upstream. ``then``: what becomes of the next request. ``close``: its head is read, and
    the connection closed, if it was an idle one; ``break``: all of it is read, then it is closed.
    """

    then: str = ""
    executed: list[Request] = field(default_factory=list)

    def serve(self, connection: Connection) -> None:
        was_idle = False
        while connection.sock.recv(1, socket.MSG_PEEK):
            then, self.then = self.then, ""
            if then == "close" and was_idle:
                connection.head()
                return
            request = connection.request()
            assert request is not None
            self.executed.append(request)
            if then == "break":
                gevent.sleep(0.3)
                return
            connection.send(OK)
            was_idle = True


@dataclass
class Asked:
    """A proxy of one worker that keeps an idle connection to ``upstream``."""

    upstream: Closing
    server: ProxyServer
    access: Access

    def send(self, method: str, then: str, body: bytes | None = None) -> RawResponse:
        """``body`` None: a chunked upload."""
        self.upstream.executed.clear()
        self.upstream.then = then
        headers = [self.access.bearer, ("Idempotency-Key", "key-1")]
        with RawClient(self.server.port) as client:
            if body is None:
                client.request(method, "/v1/files", [*headers, ("Transfer-Encoding", "chunked")])
                client.send(b"3\r\nabc\r\n0\r\n\r\n")
            else:
                kind = ("Content-Type", "application/json")
                client.request(method, "/v1/x", [*headers, kind], body)
            return client.read_response()


@pytest.fixture
def asked(own_proxy: ProxyFactory) -> Iterator[Asked]:
    upstream = Closing()
    wire = WireServer(upstream.serve)
    made = Asked(upstream, *own_proxy.started(UPSTREAM_BASE_URL=wire.origin, WEB_CONCURRENCY="1"))
    assert made.send("GET", "", b"").status == 200
    yield made
    wire.stop()


def test_what_may_have_been_executed_is_sent_once(asked: Asked) -> None:
    for method in ("POST", "PATCH"):
        assert asked.send("GET", "", b"").status == 200  # leaves an idle connection
        answer = asked.send(method, "break", b"{}")
        assert (answer.status, error_of(answer)) == (502, "upstream_broken")
        assert [request.body for request in asked.upstream.executed] == [b"{}"]
    assert asked.send("GET", "", b"").status == 200
    assert asked.send("DELETE", "break", b"").status == 200
    assert len(asked.upstream.executed) == 2


@pytest.mark.parametrize(
    ("method", "body"),
    [("GET", b""), ("PUT", b"{}"), ("POST", b"{}"), ("POST", b"x" * 300_000), ("POST", None)],
)
def test_a_connection_that_was_closing_is_not_seen(
    asked: Asked, method: str, body: bytes | None
) -> None:
    """An upload never meets one: it goes out on a new connection."""
    assert asked.send(method, "close", body).status == 200
    assert [request.body for request in asked.upstream.executed] == [
        b"abc" if body is None else body
    ]
