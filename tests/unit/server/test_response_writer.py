"""What is written for a response, and in how many writes."""

from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn.http import errors as http_errors

from proxy.server.response_writer import Headers, ResponseWriter, relay_environ, run, send_all


class Request:
    def __init__(self, method: str = "GET", version: tuple[int, int] = (1, 1)) -> None:
        self.method, self.version = method, version
        self.uri, self.body = "/v1/x?y", object()

    def should_close(self) -> bool:
        return self.version <= (1, 0)


class Sock:
    """Takes at most ``room`` bytes at a time."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.writes: list[bytes] = []
        self.room = room

    def send(self, data: bytes) -> int:
        self.writes.append(bytes(data[: self.room]))
        return len(self.writes[-1])

    def sendall(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    @property
    def head(self) -> list[bytes]:
        return self.writes[0].partition(b"\r\n\r\n")[0].split(b"\r\n")

    @property
    def body(self) -> bytes:
        return b"".join(self.writes).partition(b"\r\n\r\n")[2]


class Stream:
    """A body that may know its last piece, and notes that it was closed."""

    def __init__(self, *pieces: bytes | Exception, knows: bool = False) -> None:
        self._pieces, self._knows, self.closed, self.ended = list(pieces), knows, 0, False

    def __iter__(self) -> Iterator[bytes]:
        while self._pieces:
            piece = self._pieces.pop(0)
            if isinstance(piece, Exception):
                raise piece
            self.ended = self._knows and not self._pieces
            yield piece

    def close(self) -> None:
        self.closed += 1


def answered(
    body: Any,
    status: str = "200 OK",
    headers: Headers | None = None,
    request: Request | None = None,
    **options: Any,
) -> tuple[Sock, ResponseWriter]:
    sock = Sock()
    response = ResponseWriter(request or Request(), sock, close=False, **options)

    def application(environ: Any, start_response: Any) -> Any:
        start_response(status, headers or [])
        return body

    run(application, {}, response)
    return sock, response


def test_head_and_body_in_one_write() -> None:
    sock, response = answered([b"hello"], headers=[("Content-Length", "5"), ("X-A", "1")])
    assert len(sock.writes) == 1
    status, server, date, *rest = sock.head
    assert (status, server) == (b"HTTP/1.1 200 OK", b"Server: gunicorn")
    assert date.endswith(b" GMT")
    assert rest == [b"Connection: keep-alive", b"Content-Length: 5", b"X-A: 1"]
    assert sock.body == b"hello"
    assert not response.should_close()


def test_an_empty_piece_sends_the_head_at_once() -> None:
    sock, _ = answered([b"", b"a", b"b"])
    assert b"Transfer-Encoding: chunked" in sock.head
    assert sock.writes[1:] == [b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n"]


def test_the_end_goes_with_a_last_piece_that_is_known() -> None:
    stream = Stream(b"", b"a", b"b", knows=True)
    sock, _ = answered(stream)
    assert sock.writes[1:] == [b"1\r\na\r\n", b"1\r\nb\r\n0\r\n\r\n"]
    assert stream.closed == 1


def test_all_of_it_at_once() -> None:
    sock, _ = answered(Stream(b"abc", knows=True))
    assert len(sock.writes) == 1
    assert b"Transfer-Encoding: chunked" in sock.head
    assert sock.body == b"3\r\nabc\r\n0\r\n\r\n"


def test_what_breaks_off_does_not_look_complete() -> None:
    stream, sock = Stream(b"", b"a", ConnectionResetError()), Sock()
    response = ResponseWriter(Request(), sock, close=False)

    def application(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return stream

    with pytest.raises(ConnectionResetError):
        run(application, {}, response)
    assert sock.body == b"1\r\na\r\n"
    assert stream.closed == 1


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [
        ("HEAD", "200 OK", True),
        ("GET", "304 Not Modified", True),
        ("GET", "204 No Content", False),
        ("GET", "101 Switching Protocols", False),
    ],
)
def test_responses_without_a_body(method: str, status: str, kept: bool) -> None:
    sock, response = answered([b"xyz"], status, [("Content-Length", "3")], Request(method))
    assert sock.body == b""
    assert (b"Content-Length: 3" in sock.head) is kept
    assert not any(b"chunked" in line for line in sock.head)
    assert not response.should_close()


def test_never_more_than_the_announced_length() -> None:
    sock, _ = answered([b"abc", b"def"], headers=[("Content-Length", "4")])
    assert sock.body == b"abcd"


def test_less_than_the_announced_length_is_no_complete_response() -> None:
    with pytest.raises(ConnectionResetError):
        answered([b"abc"], headers=[("Content-Length", "4")])


def test_a_refused_start_can_be_followed_by_another() -> None:
    sock = Sock()
    response = ResponseWriter(Request(), sock, close=False)
    with pytest.raises(http_errors.InvalidResponseHeader):
        response.start_response("200 OK", [("X-A", "\n")])
    response.start_response("500 Oh", [("Content-Length", "0")])
    response.close()
    assert sock.head[0] == b"HTTP/1.1 500 Oh"


def test_to_a_1_0_client_the_end_of_the_connection_ends_the_body() -> None:
    sock, response = answered([b"abc"], request=Request(version=(1, 0)))
    assert sock.head[0] == b"HTTP/1.0 200 OK"
    assert b"Connection: close" in sock.head
    assert sock.body == b"abc"
    assert response.should_close()


def test_hop_by_hop_lines_are_the_server_s_own() -> None:
    headers = [(n, "x") for n in ("Connection", "keep-alive", "Server", "Date", "Upgrade", "TE")]
    sock, _ = answered([], headers=headers)
    assert sum(line.lower().startswith((b"server", b"date", b"conn")) for line in sock.head) == 3
    assert not any(line.endswith(b": x") for line in sock.head)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00", "\x7f", "€"])
def test_a_value_cannot_end_its_line(value: str) -> None:
    with pytest.raises(http_errors.InvalidResponseHeader) as refused:
        answered([], headers=[("X-A", value)])
    assert "Evil" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X\r\nB", "é"])
def test_a_name_is_a_token(name: str) -> None:
    with pytest.raises(http_errors.InvalidResponseHeaderName):
        answered([], headers=[(name, "1")])


def test_a_status_is_a_status() -> None:
    with pytest.raises(ValueError, match="status"):
        answered([], "200 OK\r\nX: 1")
    with pytest.raises(ValueError, match="status"):
        answered([], "OK")


def test_starting_twice_is_a_defect_unless_an_error_replaces_it() -> None:
    sock = Sock()
    response = ResponseWriter(Request(), sock, close=True)
    response.start_response("200 OK", [("Content-Length", "1")])
    with pytest.raises(AssertionError):
        response.start_response("200 OK", [])
    error = ValueError("x")
    response.start_response("500 Oh", [], (ValueError, error, None))
    response.close()
    assert sock.head[0] == b"HTTP/1.1 500 Oh"
    assert response.should_close()
    with pytest.raises(ValueError, match="x"):
        response.start_response("500 Oh", [], (ValueError, error, None))


def test_a_write_that_is_taken_in_part_goes_on() -> None:
    sock = Sock(room=3)
    send_all(sock, b"abcdef")
    assert sock.writes == [b"abc", b"def"]


def test_the_environ_of_the_relay() -> None:
    request = Request()
    environ = relay_environ(request, "sock", ("10.0.0.9", 5))
    assert environ["RAW_URI"] == "/v1/x?y"
    assert environ["REMOTE_ADDR"] == "10.0.0.9"
    assert environ["gunicorn.socket"] == "sock"
    assert relay_environ(request, "sock", "")["REMOTE_ADDR"] == ""  # a Unix socket
