"""proxy/tools/verify/raw_client.py: nothing that comes over the wire is tidied up."""

import socket
import ssl
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.server import StreamServer

from proxy.tools.verify.raw_client import Endpoint, NoResponse, Unreachable, WireResponse, call

#: Bytes to send, or a callable to run first.
Script = list[bytes | Callable[[], object]]
Serve = Callable[[Script], Endpoint]


@pytest.fixture
def received() -> list[bytes]:
    return []


@pytest.fixture
def serve(received: list[bytes]) -> Iterator[Serve]:
    """One answer for each connection, sent as the script says; then closed."""
    servers: list[StreamServer] = []

    def start(script: Script) -> Endpoint:
        def handle(sock: socket.socket, _: object) -> None:
            with sock:
                received.append(sock.recv(65536))
                for step in script:
                    if isinstance(step, bytes):
                        sock.sendall(step)
                    else:
                        step()

        servers.append(StreamServer(("127.0.0.1", 0), handle))
        servers[-1].start()
        return Endpoint(f"http://127.0.0.1:{servers[-1].server_port}/prefix")

    yield start
    for server in servers:
        server.stop(timeout=1)


def get(endpoint: Endpoint, method: str = "GET") -> WireResponse:
    return call(endpoint, method, "/v1/a%2Fb?x=&x", [("X-A", "caf\xe9"), ("x-a", "")], b"")


def test_the_request(serve: Serve, received: list[bytes]) -> None:
    endpoint = serve([b"HTTP/1.1 204 No Content\r\n\r\n"])
    get(endpoint)
    call(endpoint, "POST", "/v1/a", [], b"\x00body")
    host = endpoint.url.removeprefix("http://").removesuffix("/prefix").encode()
    assert received == [
        b"GET /prefix/v1/a%2Fb?x=&x HTTP/1.1\r\nHost: "
        + host
        + b"\r\nX-A: caf\xe9\r\nx-a: \r\n\r\n",
        b"POST /prefix/v1/a HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length: 5\r\n\r\n\x00body",
    ]


def test_the_head_as_it_came(serve: Serve) -> None:
    head = b"HTTP/1.1 299 Quite  Odd\r\nb: 2\r\nA: 1\r\nb:\t3 \r\nX-Latin: caf\xe9\r\n"
    answer = get(serve([head + b"Content-Length: 2\r\n\r\nokMORE"]))
    assert (answer.version, answer.status, answer.reason) == ("HTTP/1.1", 299, "Quite  Odd")
    assert answer.headers == (
        ("b", "2"),
        ("A", "1"),
        ("b", "3"),
        ("X-Latin", "caf\xe9"),
        ("Content-Length", "2"),
    )
    assert (answer.framing, answer.body, answer.clean) == ("length", b"ok", True)
    assert answer.values("b") == ["2", "3"]


CHUNKED = b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("wire", "framing", "body", "clean"),
    [
        (CHUNKED + b"2;x=y\r\nab\r\n3\r\ncde\r\n0\r\nX-T: 1\r\n\r\n", "chunked", b"abcde", True),
        (CHUNKED + b"2\r\nab\r\n", "chunked", b"ab", False),
        (CHUNKED + b"5\r\nab", "chunked", b"ab", False),
        (CHUNKED + b"2\r\nabX\r\n0\r\n\r\n", "chunked", b"ab", False),
        (CHUNKED + b"zz\r\n", "chunked", b"", False),
        (CHUNKED + b"0\r\n", "chunked", b"", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "length", b"ab", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab", "length", b"", False),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "close", b"abc", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "none", b"", True),
    ],
)
def test_bodies(serve: Serve, wire: bytes, framing: str, body: bytes, clean: bool) -> None:
    answer = get(serve([wire]))
    assert (answer.framing, answer.body, answer.clean) == (framing, body, clean)
    # However the network splits it.
    answer = get(serve([wire[i : i + 1] for i in range(len(wire))]))
    assert (answer.framing, answer.body, answer.clean) == (framing, body, clean)


def test_what_is_counted(serve: Serve) -> None:
    wire = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + CHUNKED
    answer = get(serve([wire + b"1\r\na\r\n1\r\nb\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n"]))
    assert (answer.interim, answer.trailers, answer.chunks) == (1, 2, 2)
    assert answer.reason == ""


def test_an_answer_to_head_has_no_body(serve: Serve) -> None:
    answer = get(serve([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]), "HEAD")
    assert (answer.framing, answer.clean, answer.values("content-length")) == ("none", True, ["9"])


def test_pieces_are_what_came_together(serve: Serve) -> None:
    """The pieces are let go one after the other; how long that takes is not looked at."""

    def pause() -> None:
        gevent.sleep(0.02)

    endpoint = serve([CHUNKED, pause, b"1\r\na\r\n1\r\nb\r\n", pause, b"2\r\ncd\r\n0\r\n\r\n"])
    answer = get(endpoint)
    assert [size for _, size in answer.pieces] == [2, 2]
    assert answer.chunks == 3
    times = [0.0, *(at for at, _ in answer.pieces)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b"", "the connection was closed before the end"),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n", "the connection was closed before the end"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 1_200_000, "too much came"),
    ],
)
def test_no_answer(serve: Serve, wire: bytes, message: str) -> None:
    with pytest.raises(NoResponse, match=message):
        get(serve([wire]))


def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match="refused"):
        get(Endpoint("http://127.0.0.1:9"))
    with pytest.raises(Unreachable):
        get(Endpoint("http://does-not-exist.invalid"))


def test_tls_is_verified(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = serve([b"no TLS here"])
    with pytest.raises(Unreachable):
        get(Endpoint(plain.url.replace("http:", "https:")))

    def refuse(*_: object, **__: object) -> None:
        error = ssl.SSLCertVerificationError()
        error.verify_message = "self-signed certificate"
        raise error

    context = ssl.create_default_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", refuse)
    with pytest.raises(Unreachable, match="TLS: self-signed certificate"):
        get(Endpoint(plain.url.replace("http:", "https:")))
