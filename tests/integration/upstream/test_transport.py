"""The seam: requests' errors become ours, marks are set, and `responses` can stand in."""

import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import requests
import responses
from gevent.event import Event

from proxy.core.errors import (
    ClientError,
    ConnectFailed,
    ResponseBroken,
    UpstreamError,
    UpstreamTimeout,
)
from proxy.providers.base import OutboundRequest, PreparedCall
from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.http1_codec import HeaderPairs
from proxy.upstream.timing import Timing
from proxy.upstream.transport import SessionTransport, UpstreamResponse
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.wire_requests import Serve
from tests.support.wire_server import CHUNKED, OK, Connection


@pytest.fixture
def transports(_no_socket_left: None) -> Iterator[Any]:
    made = []

    def make(read_timeout: float = 20.0, connect_timeout: float = 5.0) -> SessionTransport:
        session = requests.Session()
        adapter = UpstreamAdapter(pool_size=2, connect_timeout=connect_timeout)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        made.append(
            SessionTransport(session, connect_timeout=connect_timeout, read_timeout=read_timeout)
        )
        return made[-1]

    yield make
    for transport in made:
        transport.close()


def call(origin: str, body: Any = None, headers: Any = ()) -> PreparedCall:
    request = OutboundRequest("POST", b"/v1/x", [("Host", "h"), *headers], body)
    return PreparedCall(url=origin + "/v1/x", request=request)


def test_a_response_and_its_marks(serve: Serve, transports: Any) -> None:
    timing = Timing()
    response = b"HTTP/1.1 404 Nope\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nno"
    server = serve(response)
    before = time.time_ns()
    upstream = transports().handle(call(server.origin, b"", [("Cookie", "c")]), timing)
    assert (upstream.status, upstream.reason) == (404, "Nope")
    assert upstream.headers == [("Set-Cookie", "a"), ("Set-Cookie", "b"), ("Content-Length", "2")]
    assert timing.started <= timing.upstream_asked <= timing.connected <= timing.head_received
    assert before <= timing.upstream_start_ns <= timing.upstream_stop_ns <= time.time_ns()
    assert not upstream.complete
    assert upstream.read() == b"no"
    assert upstream.complete
    assert upstream.read() == b""
    upstream.close()
    assert server.requests[0].headers == [("Host", "h"), ("Cookie", "c")]


def test_no_redirect_no_cookie_no_netrc(
    serve: Serve, transports: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login u password p")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    lines = b"Location: /v1/y\r\nSet-Cookie: s=1\r\nContent-Length: 5\r\n"
    response = b"HTTP/1.1 302 Found\r\n" + lines + b"\r\nmoved"
    server = serve(response)
    transport = transports()
    for _ in range(2):
        upstream = transport.handle(call(server.origin), Timing())
        assert (upstream.status, upstream.read()) == (302, b"moved")
    assert [request.headers for request in server.requests] == [[("Host", "h")]] * 2


def test_the_wait_for_a_connection_is_no_upstream_time(serve: Serve, transports: Any) -> None:
    """Neither does a clock that is set meanwhile matter."""
    timing = Timing()
    transports().handle(call(serve(OK).origin), timing).close()
    assert timing.connected > timing.upstream_asked
    assert timing.headers()[0][1].count("-") == 0


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"", ResponseBroken),
        (b"HTTP/1.1 200", ResponseBroken),
        (b"220 smtp\r\n", ResponseBroken),
        (None, UpstreamTimeout),
    ],
)
def test_no_response(
    serve: Serve, transports: Any, response: Any, error: type[UpstreamError]
) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        if response is None:
            connection.wait_end()
        else:
            connection.send(response)

    timing = Timing()
    with pytest.raises(error) as caught:
        transports(0.1 if response is None else 20).handle(call(serve(handler).origin), timing)
    assert isinstance(caught.value.__cause__, requests.RequestException)
    assert timing.upstream_stop_ns == 0
    assert timing.upstream_ms() is not None


def test_no_connection(
    serve: Serve,
    transports: Any,
    full_listener: str,
    certificates: Authority,
) -> None:
    transport = transports(connect_timeout=0.2)
    for origin, detail in [
        (f"http://127.0.0.1:{free_port()}", "refused"),
        ("http://upstream.invalid", "resolved"),
        (full_listener, "within the time allowed"),
        (serve(OK, tls=certificates.server("127.0.0.1")).origin, "TLS"),
    ]:
        with pytest.raises(ConnectFailed, match=detail) as caught:
            transport.handle(call(origin), Timing())
        assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")


@pytest.mark.parametrize(
    ("how", "error"),
    [("close", ResponseBroken), ("reset", ResponseBroken), ("wait_end", UpstreamTimeout)],
)
def test_a_body_that_breaks(
    serve: Serve, transports: Any, how: str, error: type[UpstreamError]
) -> None:
    go_on = Event()

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + b"1\r\na\r\n")
        assert go_on.wait(20)
        getattr(connection, how)()

    transport = transports(0.1 if how == "wait_end" else 20)
    upstream = transport.handle(call(serve(handler).origin), Timing())
    assert upstream.read() == b"a"
    assert not upstream.complete
    go_on.set()
    with pytest.raises(error):
        upstream.read()
    upstream.close()
    upstream.close()


def test_the_clients_own_error_comes_out(serve: Serve, transports: Any) -> None:
    def body() -> Iterator[bytes]:
        yield b"a"
        raise ClientError("truncated")

    with pytest.raises(ClientError, match="truncated"):
        transports().handle(
            call(serve(OK).origin, body(), [("Transfer-Encoding", "chunked")]), Timing()
        )


# The promised seam: `responses` on the adapter's send.


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(target="proxy.upstream.adapter.UpstreamAdapter.send") as mock:
        yield mock


def test_responses_works_through_the_transport(
    mocked: responses.RequestsMock, transports: Any
) -> None:
    mocked.post(
        "http://upstream.test/v1/x",
        body=b'{"id": "chatcmpl-1"}',
        status=201,
        headers={"x-request-id": "req_1"},
        match=[responses.matchers.header_matcher({"Authorization": "Bearer sk-up"})],
    )
    timing = Timing()
    upstream = transports().handle(
        call("http://upstream.test", b"{}", [("Authorization", "Bearer sk-up")]), timing
    )
    assert upstream.status == 201
    assert ("x-request-id", "req_1") in upstream.headers
    assert not upstream.complete
    parts = []
    while part := upstream.read():
        parts.append(part)
    assert b"".join(parts) == b'{"id": "chatcmpl-1"}'
    upstream.close()
    assert timing.connected == timing.upstream_asked
    assert timing.upstream_stop_ns >= timing.upstream_start_ns > 0


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (requests.ReadTimeout("x"), UpstreamTimeout),
        (requests.ConnectTimeout("x"), ConnectFailed),
        (requests.exceptions.SSLError("x"), ConnectFailed),
        (requests.ConnectionError("x"), ConnectFailed),
        (requests.exceptions.ChunkedEncodingError("x"), ResponseBroken),
    ],
)
def test_what_responses_raises(
    mocked: responses.RequestsMock, transports: Any, raised: Exception, error: type[UpstreamError]
) -> None:
    mocked.post("http://upstream.test/v1/x", body=raised)
    with pytest.raises(error):
        transports().handle(call("http://upstream.test"), Timing())


class Lazy:
    """A raw response whose bytes come after a while, or never."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self.headers = HeaderPairs()
        self.complete = False

    def read1(self, amt: int, decode_content: bool) -> bytes:
        gevent.sleep(self._wait)
        return b"late"


def lazy(wait: float, read_timeout: float) -> UpstreamResponse:
    response = requests.Response()
    response.status_code = 200
    response.raw = Lazy(wait)
    return UpstreamResponse(response, read_timeout)


def test_read_within_gives_up_and_can_be_called_again() -> None:
    assert lazy(0, 10).read_within(5) == b"late"
    response = lazy(0.05, 10)
    assert response.read_within(0.01) is None
    assert response.read_within(5) == b"late"


def test_silence_adds_up_to_the_usual_timeout() -> None:
    response = lazy(60, 0.03)
    assert response.read_within(0.01) is None
    assert response.read_within(0.01) is None
    with pytest.raises(UpstreamTimeout):
        response.read_within(0.01)
