"""One round trip: what goes out, which connection it takes, and the error when none is made."""

import base64
import ssl

import gevent
import gevent.socket
import pytest
import requests
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.gateway.inflight import ClientDisconnected
from proxy.upstream import adapter as adapter_module
from proxy.upstream import stale as stale_module
from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.raw_response import BrokenResponse
from proxy.upstream.stale import ONE_WRITE, StaleConnection
from tests.support.certificates import Authority
from tests.support.open_handles import greenlets
from tests.support.ports import free_port
from tests.support.response_heads import HEADERS
from tests.support.wait import wait_until
from tests.support.wire_requests import Ask, Serve, prepared, read_all
from tests.support.wire_server import OK, Connection, pause


def test_the_target_goes_out_byte_for_byte(serve: Serve, ask: Ask) -> None:
    server = serve(OK)
    target = "/v1//a%2Fb/../c%zz/%7e;p?q=%41&q=é#f"
    assert read_all(ask(server, path=target)) == b"ok"
    assert server.requests[0].line == f"GET {target} HTTP/1.1".encode("latin-1")


@settings(max_examples=25)
@given(HEADERS, HEADERS)
def test_header_lines_pass_in_order_with_duplicates(
    serve: Serve, ask: Ask, there: list[tuple[str, str]], back: list[tuple[str, str]]
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in back).encode("latin-1")
    server = serve(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 0\r\n\r\n")
    response = ask(server, headers=[("Host", "h"), *there])
    assert read_all(response) == b""
    assert server.requests[0].headers == [("Host", "h"), *there]
    assert list(response.raw.headers.items()) == [*back, ("Content-Length", "0")]
    server.stop()


def test_nothing_is_added(serve: Serve, ask: Ask) -> None:
    server = serve(OK)
    read_all(ask(server, "POST", headers=[("Host", "h")], body=b"abc"))
    assert server.requests[0].headers == [("Host", "h"), ("Content-Length", "3")]
    assert server.requests[0].body == b"abc"


def test_the_response_is_requests_own_shape(serve: Serve, ask: Ask) -> None:
    response = ask(serve(b"HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"))
    assert isinstance(response, requests.Response)
    assert (response.status_code, response.reason, response.ok) == (429, "Slow Down", False)
    assert response.headers.get("retry-after") == "3"
    response.close()


# Which connection.


def test_connections_are_reused(serve: Serve, ask: Ask) -> None:
    server = serve(OK, b"HTTP/1.1 204 No Content\r\n\r\n", OK)
    for _ in range(5):
        read_all(ask(server))
    assert len(server.connections) == 1
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"excess",
        OK + OK,
    ],
)
def test_connections_that_must_not_be_reused(serve: Serve, ask: Ask, response: bytes) -> None:
    server = serve(response)
    for _ in range(2):
        assert read_all(ask(server)) == b"ok"
    assert len(server.connections) == 2
    wait_until(lambda: all(one.ended.is_set() for one in server.connections))


def test_a_head_response_with_a_body_does_not_poison_the_next(serve: Serve, ask: Ask) -> None:
    server = serve(OK)
    assert read_all(ask(server, "HEAD")) == b""
    assert read_all(ask(server, "GET")) == b"ok"
    assert len(server.connections) == 2


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("body", [None, b"", b"small", b"x" * 400_000])
def test_a_stale_connection_is_replaced_once(
    serve: Serve, ask: Ask, body: bytes | None, how: str
) -> None:
    def handler(connection: Connection) -> None:
        if len(server.connections) > 1:
            while (request := connection.request()) is not None:
                server.requests.append(request)
                connection.send(OK)
        connection.request()
        connection.send(OK)
        connection.head()
        getattr(connection, how)()

    server = serve(handler)
    read_all(ask(server))
    assert read_all(ask(server, "POST", body=body)) == b"ok"
    assert len(server.connections) == 2
    assert [request.body for request in server.requests] == [body or b""]
    wait_until(lambda: greenlets() == 0)


def test_a_second_stale_connection_is_an_error(serve: Serve, ask: Ask) -> None:
    """The second try takes a fresh one, and there is no third."""

    def handler(connection: Connection) -> None:
        if len(server.connections) < 3:
            connection.request()
            connection.send(OK)
        connection.request()

    server = serve(handler)
    first, second = ask(server), ask(server)
    read_all(first)
    read_all(second)
    with pytest.raises(BrokenResponse) as caught:
        ask(server, "POST", body=b"x")
    assert not isinstance(caught.value, StaleConnection)
    assert len(server.connections) == 3


def test_an_upload_never_meets_a_stale_connection(serve: Serve, ask: Ask) -> None:
    """A body that is streamed cannot be sent again, so it gets a connection of its own."""

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(OK)
        connection.head()

    server = serve(handler)
    read_all(ask(server))
    headers = [("Transfer-Encoding", "chunked")]
    assert read_all(ask(server, "POST", headers=headers, body=iter([b"a"]))) == b"ok"
    assert len(server.connections) == 2
    wait_until(lambda: greenlets() == 0)


@pytest.mark.parametrize(
    ("method", "body", "sent_again"),
    [
        ("POST", b"small", False),
        ("PATCH", None, False),
        ("PROPFIND", None, False),
        ("GET", None, True),
        ("PUT", b"x" * 400_000, True),
        ("DELETE", None, True),
    ],
)
def test_what_an_upstream_may_have_executed_is_sent_once(
    serve: Serve, ask: Ask, method: str, body: bytes | None, sent_again: bool
) -> None:
    """The upstream reads a request, works for longer than a round trip, and breaks."""

    def handler(connection: Connection) -> None:
        while (request := connection.request()) is not None:
            server.requests.append(request)
            if len(server.requests) == 2:
                gevent.sleep(0.15)
                return
            connection.send(OK)

    server = serve(handler)
    read_all(ask(server))
    key = [("Host", "h"), ("Idempotency-Key", "k-1")]
    if sent_again:
        ask(server, method, headers=key, body=body).close()
    else:
        with pytest.raises(BrokenResponse, match="closed the connection"):
            ask(server, method, headers=key, body=body)
    assert len(server.requests) == (3 if sent_again else 2)
    assert len(server.connections) == (2 if sent_again else 1)
    wait_until(lambda: greenlets() == 0)


def test_a_large_body_of_a_post_gets_a_new_connection(serve: Serve, ask: Ask) -> None:
    """It takes several writes, after which a part of it may have been read."""
    server = serve(OK)
    for body in (b"", b"x" * (ONE_WRITE + 1), b"x" * ONE_WRITE):
        assert read_all(ask(server, "POST", body=body)) == b"ok"
    assert len(server.connections) == 2
    assert read_all(ask(server, "PUT", body=b"x" * (ONE_WRITE + 1))) == b"ok"
    assert len(server.connections) == 2
    # The new one took the place of an idle one: they do not become more.
    wait_until(server.connections[0].ended.is_set)


@pytest.mark.parametrize("what", ["a byte came", "it took its time", "silence", "fresh"])
def test_what_is_not_asked_twice(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def handler(connection: Connection) -> None:
        if what != "fresh":
            connection.request()
            connection.send(OK)
        connection.request()
        if what == "a byte came":
            connection.send(b"H")
        if what == "silence":
            connection.wait_end()

    if what == "it took its time":  # so it was no idle connection: the upstream was at work
        monkeypatch.setattr(stale_module, "_MAX_SECONDS", 0.0)
    server = serve(handler)
    if what != "fresh":
        read_all(ask(server))
    expected = requests.ReadTimeout if what == "silence" else BrokenResponse
    with pytest.raises(expected) as caught:
        ask(server, "POST", body=b"x", silence=0.1 if what == "silence" else 20.0)
    assert not isinstance(caught.value, StaleConnection)
    assert len(server.connections) == 1


def test_a_client_that_leaves_is_not_asked_for_again(
    serve: Serve, adapter: UpstreamAdapter
) -> None:
    """Thrown into the wait on a reused connection: not stale, and no second request."""
    waiting = Event()

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(OK)
        connection.request()
        waiting.set()
        connection.wait_end()

    server = serve(handler)
    read_all(adapter.send(prepared("GET", server.origin + "/"), timeout=(5, 20)))
    caller = gevent.spawn(
        adapter.send, prepared("POST", server.origin + "/", body=b"x"), timeout=(5, 20)
    )
    assert waiting.wait(20)
    caller.kill(ClientDisconnected)
    assert isinstance(caller.value, ClientDisconnected)
    wait_until(server.connections[0].ended.is_set)
    assert len(server.connections) == 1


# No connection.


def test_refused(adapter: UpstreamAdapter) -> None:
    request = prepared("GET", f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(requests.ConnectionError, match="refused") as caught:
        adapter.send(request, timeout=(5, 20))
    assert not isinstance(caught.value, BrokenResponse)


def test_an_unknown_name(adapter: UpstreamAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(requests.ConnectionError, match="could not be resolved"):
        adapter.send(prepared("GET", "http://upstream.invalid/"), timeout=(5, 20))
    with pytest.raises(requests.ConnectionError, match="could not be resolved"):
        adapter.send(prepared("GET", "http://a..b/"), timeout=(5, 20))


def test_connections_of_an_origin_with_any_address_are_not_for_public_ones(
    serve: Serve, ask: Ask, adapter: UpstreamAdapter
) -> None:
    """The same host and port, once vouched for and once not: an idle connection is not shared."""
    server = serve(OK)
    assert read_all(ask(server)) == b"ok"
    request = prepared("GET", f"public+{server.origin}/v1/x", [("Host", server.host)])
    with pytest.raises(requests.ConnectionError, match="private, local or metadata address"):
        adapter.send(request, timeout=(5, 20))
    assert len(server.requests) == 1


def test_connect_timeout(full_listener: str) -> None:
    adapter = UpstreamAdapter(pool_size=1, connect_timeout=0.1)
    with pytest.raises(requests.ConnectTimeout):
        adapter.send(prepared("GET", full_listener + "/"), timeout=(0.1, 20))


def test_another_os_error_is_reported(
    adapter: UpstreamAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, address: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(gevent.socket.socket, "connect", refuse)
    with pytest.raises(requests.ConnectionError, match="Network is unreachable"):
        adapter.send(prepared("GET", "http://127.0.0.1:9/"), timeout=(5, 20))


# TLS.


def test_a_trusted_certificate(serve: Serve, ask: Ask, trusted: Authority) -> None:
    server = serve(OK, tls=trusted.server("127.0.0.1"))
    for _ in range(3):
        assert read_all(ask(server, "POST", body=b"abc")) == b"ok"
    assert len(server.connections) == 1
    assert server.requests[2].body == b"abc"


def test_an_unknown_issuer(
    serve: Serve, ask: Ask, certificates: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(OK, tls=certificates.server("127.0.0.1"))
    with pytest.raises(requests.exceptions.SSLError, match=r"TLS: .*issuer certificate"):
        ask(server)
    assert server.requests == []


def test_another_name(serve: Serve, ask: Ask, trusted: Authority) -> None:
    server = serve(OK, tls=trusted.server("another.test"))
    with pytest.raises(requests.exceptions.SSLError, match=r"not valid for '127\.0\.0\.1'"):
        ask(server)


def test_no_tls_at_all(serve: Serve, adapter: UpstreamAdapter) -> None:
    def handler(connection: Connection) -> None:
        connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.wait_end()

    url = serve(handler).origin.replace("http", "https") + "/"
    with pytest.raises(requests.exceptions.SSLError, match=r"^TLS: "):
        adapter.send(prepared("GET", url), timeout=(5, 20))


def test_a_tls_handshake_that_breaks_off(serve: Serve, adapter: UpstreamAdapter) -> None:
    url = serve(lambda connection: connection.sock.recv(10) and None).origin
    with pytest.raises(requests.ConnectionError) as caught:
        adapter.send(prepared("GET", url.replace("http", "https") + "/"), timeout=(5, 20))
    assert not isinstance(caught.value, BrokenResponse)


def test_tls_silence_and_tls_cut(serve: Serve, ask: Ask, trusted: Authority) -> None:
    def handler(connection: Connection) -> None:
        request = connection.request()
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
        if request and b"/silent" in request.line:
            connection.wait_end()

    server = serve(handler, tls=trusted.server("127.0.0.1"))
    response = ask(server, path="/silent", silence=0.1)
    assert response.raw.read1() == b"a"
    with pytest.raises(requests.ReadTimeout):
        response.raw.read1()
    response.close()
    response = ask(server)
    with pytest.raises(BrokenResponse):
        read_all(response)
    response.close()


def test_a_tls_upload_whose_client_fails(serve: Serve, ask: Ask, trusted: Authority) -> None:
    seen = []

    def handler(connection: Connection) -> None:
        seen.append(connection.request())

    def body() -> object:
        yield b"a"
        pause()
        raise ValueError("the client's")

    server = serve(handler, tls=trusted.server("127.0.0.1"))
    with pytest.raises(ValueError, match="the client's"):
        ask(server, "POST", headers=[("Transfer-Encoding", "chunked")], body=body())
    wait_until(lambda: len(seen) == 1)
    assert seen[0]
    assert (seen[0].body, seen[0].whole) == (b"a", False)


def test_a_stale_tls_connection(serve: Serve, ask: Ask, trusted: Authority) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(OK)
        if len(server.connections) == 1:
            connection.head()
            connection.reset()
        connection.wait_end()

    server = serve(handler, tls=trusted.server("127.0.0.1"))
    read_all(ask(server))
    assert read_all(ask(server, "POST", body=b"x" * 300_000)) == b"ok"
    assert len(server.connections) == 2


# Through a forward proxy.


def tunnel(connection: Connection, target: tuple[str, int]) -> None:
    """Copies both ways until either side ends."""
    with gevent.socket.create_connection(target) as far:

        def pump(source: object, sink: object) -> None:
            try:
                while data := source.recv(65536):  # type: ignore[attr-defined]
                    sink.sendall(data)  # type: ignore[attr-defined]
            except OSError:
                pass

        pumps = [
            gevent.spawn(pump, connection.sock, far),
            gevent.spawn(pump, far, connection.sock),
        ]
        gevent.wait(pumps, count=1)
        gevent.killall(pumps)


CREDENTIALS = "Basic " + base64.b64encode(b"us@er:p:w").decode()


@pytest.mark.parametrize("login", ["us%40er:p%3Aw@", ""])
def test_https_through_connect(serve: Serve, trusted: Authority, login: str) -> None:
    server = serve(OK, tls=trusted.server("127.0.0.1"))
    heads = []

    def handler(connection: Connection) -> None:
        head = connection.head()
        assert head
        heads.append(head)
        connection.send(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
        tunnel(connection, ("127.0.0.1", server.port))

    forward = serve(handler)
    adapter = UpstreamAdapter(
        pool_size=2, connect_timeout=5, proxy_url=f"http://{login}{forward.host}"
    )
    for _ in range(2):
        response = adapter.send(prepared("GET", server.origin + "/v1/x"), timeout=(5, 20))
        assert read_all(response) == b"ok"
    adapter.close()
    assert len(heads) == 1
    line, headers = heads[0]
    assert line == f"CONNECT {server.host} HTTP/1.1".encode()
    assert ("Host", server.host) in headers
    assert [value for name, value in headers if name == "Proxy-Authorization"] == (
        [CREDENTIALS] if login else []
    )
    # The upstream sees neither the proxy's credentials nor the absolute form.
    assert server.requests[0].line == b"GET /v1/x HTTP/1.1"
    assert server.requests[0].header("proxy-authorization") is None


@pytest.mark.parametrize("login", ["us%40er:p%3Aw@", ""])
def test_plain_http_through_a_proxy(serve: Serve, login: str) -> None:
    forward = serve(OK)
    adapter = UpstreamAdapter(
        pool_size=2, connect_timeout=5, proxy_url=f"http://{login}{forward.host}"
    )
    request = prepared("GET", "http://upstream.test:81/v1/a%2Fb?c", [("Host", "upstream.test:81")])
    for _ in range(2):
        assert read_all(adapter.send(request, timeout=(5, 20))) == b"ok"
    adapter.close()
    assert len(forward.connections) == 1
    assert forward.requests[0].line == b"GET http://upstream.test:81/v1/a%2Fb?c HTTP/1.1"
    assert forward.requests[0].header("Host") == "upstream.test:81"
    assert forward.requests[0].header("Proxy-Authorization") == (CREDENTIALS if login else None)
    assert request.headers.get("Proxy-Authorization") is None


def test_a_forward_proxy_may_be_private_and_sees_no_mark(serve: Serve) -> None:
    """It resolves the names, so it decides about addresses."""
    forward = serve(OK)
    adapter = UpstreamAdapter(pool_size=2, connect_timeout=5, proxy_url=f"http://{forward.host}")
    request = prepared("GET", "public+http://upstream.test/v1/x", [("Host", "upstream.test")])
    assert read_all(adapter.send(request, timeout=(5, 20))) == b"ok"
    adapter.close()
    assert forward.requests[0].line == b"GET http://upstream.test/v1/x HTTP/1.1"


@pytest.mark.parametrize(
    "response", [b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", b"", b"garbage\r\n\r\n"]
)
def test_connect_refused(serve: Serve, response: bytes) -> None:
    def handler(connection: Connection) -> None:
        connection.head()
        connection.send(response)

    adapter = UpstreamAdapter(
        pool_size=2, connect_timeout=5, proxy_url=f"http://u:secret@{serve(handler).host}"
    )
    with pytest.raises(requests.ConnectionError) as caught:
        adapter.send(prepared("GET", "https://upstream.test/"), timeout=(5, 20))
    assert not isinstance(caught.value, BrokenResponse)
    assert "secret" not in str(caught.value)


def test_one_context_for_all_connections(
    serve: Serve, ask: Ask, trusted: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ssl.SSLContext] = []
    original = adapter_module.tls_context
    monkeypatch.setattr(adapter_module, "tls_context", lambda: made.append(original()) or made[-1])
    for _ in range(2):
        server = serve(OK, tls=trusted.server("127.0.0.1"))
        read_all(ask(server))
    assert len(made) == 1


@given(st.binary(max_size=2000))
@settings(max_examples=20)
def test_slices_are_the_body(data: bytes) -> None:
    assert b"".join(adapter_module._slices(data)) == data
