"""The request body on gunicorn, fed by gunicorn's own parser."""

import itertools
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.server.request_body import ArrivingBody


class Connection:
    """What the client sent in pieces; a piece that is an exception is raised at that read."""

    def __init__(self, pieces: list[bytes | Exception]) -> None:
        self.sent = b""
        self._pieces = pieces
        self.unreader = IterUnreader(self._read())
        config = Config()
        config.set("http_parser", "python")
        self.request = Request(config, self.unreader, ("127.0.0.1", 1))
        self.unreader.sock = self
        self.body = ArrivingBody(self.request, self.request.body.reader)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def rest(self) -> bytes:
        """What the next request would begin with."""
        data = b""
        while piece := self.unreader.read():
            data += piece
        return data

    def _read(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            if piece:
                yield piece


def read_all(body: ArrivingBody, most: int = 65536) -> bytes:
    data = b""
    while piece := body.read_arrived(most):
        assert len(piece) <= most or isinstance(piece, bytes)
        data += piece
    return data


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


CUTS = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)


@given(body=st.binary(max_size=300), cuts=CUTS, most=st.integers(1, 400))
def test_known_length_in_any_pieces(body: bytes, cuts: list[int], most: int) -> None:
    head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection = Connection(split(head + body + b"GET /next", cuts))
    assert read_all(connection.body, most) == body
    assert not connection.body.unread
    assert connection.rest() == b"GET /next"


@given(chunks=st.lists(st.binary(min_size=1, max_size=80), max_size=6), cuts=CUTS)
def test_chunked_in_any_pieces(chunks: list[bytes], cuts: list[int]) -> None:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection = Connection(split(head + coded + b"GET /next", cuts))
    assert read_all(connection.body) == b"".join(chunks)
    assert not connection.body.unread
    assert connection.rest() == b"GET /next"


def test_a_piece_comes_when_it_arrives() -> None:
    connection = Connection([b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n", b"ab", b"cdef"])
    assert connection.body.read_arrived(65536) == b"ab"
    assert connection.body.unread
    assert connection.body.read_arrived(65536) == b"cdef"
    assert connection.body.read_arrived(65536) == b""


@pytest.mark.parametrize(
    ("framing", "code"),
    [
        ([b"Content-Length: 6\r\n\r\nabc"], "invalid_request"),
        ([b"Transfer-Encoding: chunked\r\n\r\n3\r\nab"], "invalid_request"),
        ([b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], "invalid_request"),
        ([b"Transfer-Encoding: chunked\r\n\r\n1\r\naXX"], "invalid_request"),
        ([b"Content-Length: 6\r\n\r\nabc", TimeoutError()], "request_timeout"),
        ([b"Content-Length: 6\r\n\r\nabc", ConnectionResetError()], "invalid_request"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_failures_have_the_proxy_s_errors(
    framing: list[bytes | Exception], code: str, whole: bool
) -> None:
    """By the arriving piece, and by the ``read`` that Flask uses."""
    connection = Connection([b"POST / HTTP/1.1\r\n", *framing])
    read = connection.body.read if whole else lambda: read_all(connection.body)
    with pytest.raises(ClientError) as caught:
        read()
    assert caught.value.code == code
    assert connection.body.unreadable


def test_continue_is_sent_at_the_first_read_only() -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    connection = Connection([head, b"a", b"b"])
    assert connection.body.unreadable, "the client may or may not send its body now"
    assert connection.sent == b""
    assert read_all(connection.body) == b"ab"
    assert connection.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert not connection.body.unreadable


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConnectionResetError(), "invalid_request"), (TimeoutError(), "request_timeout")],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_client_that_is_gone_before_its_100_continue(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: str, whole: bool
) -> None:
    head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    connection = Connection([head])

    def fail(data: bytes) -> None:
        raise error

    monkeypatch.setattr(connection, "sendall", fail)
    with pytest.raises(ClientError) as caught:
        connection.body.read() if whole else connection.body.read_arrived(10)
    assert caught.value.code == code
    assert connection.body.unreadable


@pytest.mark.parametrize(
    ("framing", "closes"),
    [
        (b"Content-Length: 10\r\n\r\n", False),
        (b"Content-Length: 65537\r\n\r\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n", True),
        (b"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n", True),
        (b"\r\n", False),
    ],
)
def test_an_abandoned_body_closes_the_connection_unless_it_is_small(
    framing: bytes, closes: bool
) -> None:
    connection = Connection([b"POST / HTTP/1.1\r\n" + framing])
    connection.body.abandon()
    assert connection.request.should_close() is closes


def test_a_body_that_was_begun_and_abandoned_closes_the_connection() -> None:
    connection = Connection([b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc"])
    connection.body.read_arrived(2)
    connection.body.abandon()
    assert connection.request.should_close()


def test_header_lines_keep_their_duplicates() -> None:
    connection = Connection([b"GET / HTTP/1.1\r\nCookie: a\r\nX: 1\r\nCookie: b\r\n\r\n"])
    assert connection.body.header_lines == [("COOKIE", "a"), ("X", "1"), ("COOKIE", "b")]


def test_no_body_is_at_its_end() -> None:
    connection = Connection([b"GET / HTTP/1.1\r\n\r\n"])
    assert connection.body.read_arrived(10) == b""
    assert connection.body.read() == b""


@pytest.mark.parametrize(
    ("pieces", "arrived"),
    [
        ([b"Content-Length: 3\r\n\r\nabc"], True),
        ([b"Content-Length: 3\r\n\r\nabcGET / HTTP/1.1"], True),
        ([b"Content-Length: 3\r\n\r\nab", b"c"], False),
        ([b"Content-Length: 3\r\n\r\n", b"abc"], False),
        ([b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"], False),
        ([b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"], False),
    ],
)
def test_whether_a_body_is_here(pieces: list[bytes | Exception], arrived: bool) -> None:
    connection = Connection([b"POST / HTTP/1.1\r\n", *pieces])
    assert connection.body.arrived is arrived
