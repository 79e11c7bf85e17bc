"""Answers while they come, and uploads while they go, on real sockets."""

import itertools
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import requests
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.upstream import adapter as adapter_module
from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.http1_codec import MAX_HEAD_BYTES
from proxy.upstream.raw_response import BrokenResponse, RawResponse, Upload
from tests.support.loop_probe import LoopProbe, served_while
from tests.support.open_handles import greenlets
from tests.support.wait import wait_until
from tests.support.wire_requests import Ask, Serve, prepared, read_all
from tests.support.wire_server import CHUNKED, OK, Connection, Handler, Request, pause

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED_UPLOAD = [("Host", "upstream.test"), ("Transfer-Encoding", "chunked")]


def once(response: bytes) -> Handler:
    """Answers one request, then closes."""

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(response)

    return handler


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (HEAD + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (HEAD + b"Content-Length: 0\r\n\r\n", b""),
        (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
        (CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: t\r\n\r\n", b"abc"),
        (HEAD + b"\r\nabc", b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + OK, b"ok"),
        (HEAD + b"Content-Length: 3\r\n\r\nabcEXCESS", b"abc"),
    ],
)
def test_bodies(serve: Serve, ask: Ask, answer: bytes, body: bytes) -> None:
    response = ask(serve(once(answer)))
    assert read_all(response) == body
    assert response.raw.complete
    assert response.raw.read1() == b""
    assert response.raw.headers.get("x-trailer") is None


@settings(max_examples=25)
@given(st.lists(st.binary(min_size=1, max_size=9), max_size=6), st.integers(1, 12))
def test_chunks_however_they_are_cut(
    serve: Serve, ask: Ask, pieces: list[bytes], size: int
) -> None:
    wire = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED)
        for start in range(0, len(wire), size):
            connection.send(wire[start : start + size])
            gevent.sleep(0)

    server = serve(handler)
    assert read_all(ask(server)) == b"".join(pieces)
    server.stop()


@pytest.mark.parametrize("framing", [CHUNKED, HEAD + b"Content-Length: 24\r\n\r\n", HEAD + b"\r\n"])
def test_events_come_one_by_one(serve: Serve, ask: Ask, framing: bytes) -> None:
    """Each is read before the next one is sent: waiting for more would never end."""
    received = Event()

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(framing)
        for number in range(3):
            event = b"data: %d\n" % number
            sent = b"8\r\n%b\r\n" % event if framing is CHUNKED else event
            connection.send(sent)
            assert received.wait(20)
            received.clear()
        connection.send(b"0\r\n\r\n")

    response = ask(serve(handler))
    for number in range(3):
        assert response.raw.read1() == b"data: %d\n" % number
        received.set()
    assert response.raw.read1() == b"" or b"Length" not in framing
    response.raw.close()


def test_an_interim_response_alone_then_the_final_one(serve: Serve, ask: Ask) -> None:
    def handler(connection: Connection) -> None:
        while connection.request() is not None:
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            pause()
            connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
            pause()
            connection.send(OK)

    server = serve(handler)
    for _ in range(2):
        response = ask(server)
        assert (response.raw.status, list(response.raw.headers)) == (200, [("Content-Length", "2")])
        assert read_all(response) == b"ok"
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed the connection"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "closed the connection"),
        (b"220 mail.test ESMTP\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "not valid HTTP"),
        (HEAD + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", "not valid HTTP"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "not valid HTTP"),
        (HEAD + b"X: " + b"y" * (2 * MAX_HEAD_BYTES), "larger than"),
    ],
)
def test_heads_that_are_none(serve: Serve, ask: Ask, response: bytes, message: str) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(response)
        if message != "closed the connection":
            connection.wait_end()  # they are refused at once, not when the connection ends

    server = serve(handler)
    with pytest.raises(BrokenResponse, match=message):
        ask(server)
    assert len(server.connections) == 1


@pytest.mark.parametrize("framing", [CHUNKED + b"5\r\n", HEAD + b"Content-Length: 5\r\n\r\n"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_short_body_is_never_a_silent_end(
    serve: Serve, ask: Ask, framing: bytes, how: str
) -> None:
    go_on = Event()

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(framing + b"abc")
        assert go_on.wait(20)
        getattr(connection, how)()

    response = ask(serve(handler))
    assert response.raw.read1() == b"abc"
    go_on.set()
    with pytest.raises(BrokenResponse, match="broke off" if how == "close" else "reset"):
        response.raw.read1()
    response.raw.close()


def test_a_reset_instead_of_a_response(serve: Serve, ask: Ask) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.reset()

    with pytest.raises(BrokenResponse, match="reset"):
        ask(serve(handler))


def test_silence_before_and_within_a_response(serve: Serve, ask: Ask) -> None:
    def handler(connection: Connection) -> None:
        request = connection.request()
        if request is not None and b"/body" in request.line:
            connection.send(CHUNKED + b"1\r\na\r\n")
        connection.wait_end()

    server = serve(handler)
    with pytest.raises(requests.ReadTimeout):
        ask(server, silence=0.1)
    response = ask(server, path="/body", silence=0.1)
    assert response.raw.read1() == b"a"
    with pytest.raises(requests.ReadTimeout):
        response.raw.read1()
    response.raw.close()
    wait_until(lambda: all(one.ended.is_set() for one in server.connections))


def test_a_slow_response_is_not_silence(serve: Serve, ask: Ask) -> None:
    """The whole takes longer than the time allowed between two bytes."""

    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED)
        for _ in range(8):
            gevent.sleep(0.05)
            connection.send(b"1\r\na\r\n")
        connection.send(b"0\r\n\r\n")

    assert read_all(ask(serve(handler), silence=0.3)) == b"a" * 8


# Closing.


@pytest.mark.parametrize("reads", [0, 1])
def test_closing_an_unfinished_response_drops_the_connection(
    serve: Serve, ask: Ask, reads: int
) -> None:
    def handler(connection: Connection) -> None:
        connection.request()
        connection.send(CHUNKED + b"1\r\na\r\n")
        connection.wait_end()

    server = serve(handler)
    response = ask(server)
    for _ in range(reads):
        response.raw.read1()
    response.raw.close()
    response.raw.close()
    response.raw.release_conn()
    wait_until(server.connections[0].ended.is_set)
    with pytest.raises(BrokenResponse, match="closed"):
        read_all(response)


def test_closing_a_complete_response_unread_keeps_the_connection(serve: Serve, ask: Ask) -> None:
    server = serve(OK)
    for _ in range(3):
        ask(server).raw.close()
    assert len(server.connections) == 1


def test_the_connection_is_back_with_the_last_byte(
    serve: Serve, ask: Ask, adapter: UpstreamAdapter
) -> None:
    server = serve(OK)
    response = ask(server)
    assert response.raw.read1() == b"ok"
    assert adapter._pool(server.origin).idle_count == 1


# Uploads.


class ClientTrouble(Exception):
    pass


def pieces(*parts: bytes, error: BaseException | None = None) -> Iterator[bytes]:
    for part in parts:
        pause()
        yield part
    if error is not None:
        raise error


def recording(requests_seen: list[Request | None], response: bytes = OK) -> Handler:
    def handler(connection: Connection) -> None:
        while (request := connection.request()) is not None:
            requests_seen.append(request)
            if not request.whole:
                return
            connection.send(response)

    return handler


@pytest.mark.parametrize("parts", [[b"abc"], [b"a", b"", b"bc"], [b"x" * 300_000, b"y" * 300_000]])
def test_streamed_uploads(serve: Serve, ask: Ask, parts: list[bytes]) -> None:
    """An empty piece must not become the last chunk."""
    seen: list[Request | None] = []
    server = serve(recording(seen))
    size = str(sum(map(len, parts)))
    known = [("Host", "upstream.test"), ("Content-Length", size)]
    for headers in (known, CHUNKED_UPLOAD):
        response = ask(server, "POST", headers=headers, body=pieces(*parts))
        assert read_all(response) == b"ok"
    assert [request and request.body for request in seen] == [b"".join(parts)] * 2
    assert all(request and request.whole for request in seen)
    # Each on a new connection, which is kept in the place of the one before.
    assert len(server.connections) == 2
    wait_until(server.connections[0].ended.is_set)
    read_all(ask(server))
    assert len(server.connections) == 2
    wait_until(lambda: greenlets() == 0)


def test_an_empty_upload_of_unknown_length(serve: Serve, ask: Ask) -> None:
    seen: list[Request | None] = []
    server = serve(recording(seen))
    assert read_all(ask(server, "POST", headers=CHUNKED_UPLOAD, body=pieces())) == b"ok"
    assert seen[0]
    assert (seen[0].body, seen[0].whole) == (b"", True)


def test_a_large_body_in_memory_is_sent_whole(serve: Serve, ask: Ask) -> None:
    seen: list[Request | None] = []
    body = bytes(range(256)) * 4096
    assert read_all(ask(serve(recording(seen)), "POST", body=body)) == b"ok"
    assert seen[0]
    assert seen[0].body == body


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ClientError("truncated"),
        ClientTrouble(),
        ConnectionResetError("the client's"),
        TimeoutError("the client's"),
        BrokenPipeError("the client's"),
    ],
)
def test_an_upload_whose_client_fails_is_cut(
    serve: Serve, ask: Ask, error: Exception, chunked: bool
) -> None:
    """Never completed; what comes out is the client's error, even where it looks like ours."""
    seen: list[Request | None] = []
    server = serve(recording(seen))
    headers = CHUNKED_UPLOAD if chunked else [("Content-Length", "100")]
    with pytest.raises(type(error)) as caught:
        ask(server, "POST", headers=headers, body=pieces(b"a", b"b", error=error))
    assert caught.value is error
    wait_until(lambda: len(seen) == 1)
    assert seen[0]
    assert (seen[0].body, seen[0].whole) == (b"ab", False)
    wait_until(lambda: greenlets() == 0)


def test_a_client_that_fails_while_the_response_arrives(serve: Serve, ask: Ask) -> None:
    fail = Event()

    def body() -> Iterator[bytes]:
        yield b"a"
        assert fail.wait(20)
        raise ClientTrouble

    def handler(connection: Connection) -> None:
        connection.head()
        connection.send(CHUNKED + b"1\r\nx\r\n")
        connection.wait_end()

    response = ask(serve(handler), "POST", headers=CHUNKED_UPLOAD, body=body())
    assert response.raw.read1() == b"x"
    fail.set()
    with pytest.raises(ClientTrouble):
        response.raw.read1()
    response.raw.close()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_response_before_the_upload_has_ended(serve: Serve, ask: Ask, in_memory: bool) -> None:
    """Relayed; the connection carries half a request and is not used again."""
    held = Event()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536
            held.wait(0.001)

    def handler(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if b"/wait" in connection._buffer:
            return
        connection.wait_end()

    server = serve(handler)
    if in_memory:
        response = ask(server, "POST", body=b"x" * 50_000_000)
    else:
        response = ask(server, "POST", headers=CHUNKED_UPLOAD, body=endless())
    assert response.status_code == 413
    assert read_all(response) == b"big"
    wait_until(server.connections[0].ended.is_set)
    wait_until(lambda: greenlets() == 0)
    read_all(ask(server))
    assert len(server.connections) == 2


def test_an_early_response_and_a_closed_connection(serve: Serve, ask: Ask) -> None:
    def handler(connection: Connection) -> None:
        connection.head()
        connection.send(b"HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")

    response = ask(serve(handler), "POST", headers=CHUNKED_UPLOAD, body=pieces(*[b"x" * 999] * 9))
    assert (response.status_code, read_all(response)) == (401, b"no")


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_upstream_that_stops_reading(serve: Serve, ask: Ask, in_memory: bool) -> None:
    stop = Event()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    def handler(connection: Connection) -> None:
        stop.wait(20)

    server = serve(handler)
    body = b"x" * 50_000_000 if in_memory else endless()
    with pytest.raises(requests.ReadTimeout):
        ask(
            server,
            "POST",
            headers=None if in_memory else CHUNKED_UPLOAD,
            body=body,
            silence=0.1,
        )
    stop.set()
    wait_until(lambda: greenlets() == 0)


def test_a_small_request_that_is_not_taken(
    serve: Serve, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of head and body in one times out like a silent upstream."""
    monkeypatch.setattr(adapter_module, "ONE_WRITE", 100_000_000)
    stop = Event()
    server = serve(lambda connection: stop.wait(20))
    with pytest.raises(requests.ReadTimeout):
        ask(server, "POST", body=b"x" * 50_000_000, silence=0.1)
    stop.set()


def test_a_listening_upstream_need_not_speak(serve: Serve, ask: Ask) -> None:
    """The upload takes much longer than the silence allowed."""

    def slow() -> Iterator[bytes]:
        for _ in range(12):
            gevent.sleep(0.03)
            yield b"x"

    seen: list[Request | None] = []
    response = ask(serve(recording(seen)), "POST", headers=CHUNKED_UPLOAD, body=slow(), silence=0.1)
    assert read_all(response) == b"ok"
    assert seen[0]
    assert seen[0].body == b"x" * 12


def test_a_slow_client_is_not_a_silent_upstream(serve: Serve, ask: Ask) -> None:
    """Its own timeout is the one that counts while it is waited for."""

    def slow() -> Iterator[bytes]:
        yield b"a"
        gevent.sleep(0.35)
        yield b"b"

    seen: list[Request | None] = []
    response = ask(serve(recording(seen)), "POST", headers=CHUNKED_UPLOAD, body=slow(), silence=0.1)
    assert read_all(response) == b"ok"


def test_silence_after_the_upload_counts(serve: Serve, ask: Ask) -> None:
    server = serve(lambda connection: connection.wait_end() and None)
    with pytest.raises(requests.ReadTimeout):
        ask(server, "POST", headers=CHUNKED_UPLOAD, body=pieces(b"a"), silence=0.1)


@pytest.mark.parametrize("when", ["not started", "at the client", "in the write"])
def test_closing_during_an_upload(serve: Serve, adapter: UpstreamAdapter, when: str) -> None:
    """The caller's greenlet is interrupted while it waits for the head."""
    block, started = Event(), Event()
    finished = []

    def body() -> Iterator[bytes]:
        try:
            started.set()
            while when == "in the write":
                yield b"x" * 65536
            block.wait(20)
            yield b"x"
        finally:
            finished.append(True)

    server = serve(lambda connection: block.wait(20))
    request = prepared("POST", server.origin + "/v1/x", CHUNKED_UPLOAD, body())
    caller = gevent.spawn(adapter.send, request, timeout=(5, 20))
    if when == "not started":
        gevent.sleep(0)
    else:
        assert started.wait(20)
        pause()
    caller.kill()
    assert caller.dead
    wait_until(lambda: greenlets() == 0)
    assert finished == ([True] if when == "at the client" else [])
    block.set()


class Ready:
    """A socket that takes and gives without a wait."""

    def sendall(self, data: bytes) -> None:
        pass

    def recv(self, size: int) -> bytes:
        return b"x" * size


def test_an_upload_that_never_waits_leaves_others_their_turn() -> None:
    """Both its client and its upstream are always ready."""
    sock: Any = Ready()
    with LoopProbe() as other:
        before = other.served
        upload = Upload(sock, b"head", itertools.repeat(b"x" * 1024), chunked=True)
        while other.served - before < 3:
            gevent.sleep(0.001)
        upload.stop()


def test_a_response_during_an_upload_yields_to_other_greenlets() -> None:
    """That of an upstream which has always more to say, while the upload goes on."""
    sock: Any = Ready()
    held = Event()
    response = RawResponse(None, sock, "POST")  # type: ignore[arg-type]
    response.upload = Upload(sock, b"head", iter(held.wait, None), chunked=True)  # type: ignore[arg-type]
    response._parser.feed_bytes(b"HTTP/1.1 200 OK\r\n\r\n")
    assert served_while(response.read1) >= 3
    response.upload.stop()
