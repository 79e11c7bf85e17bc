"""The parser and the request head: nothing waits here, so every byte can be tried."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.http1_codec import (
    MAX_HEAD_BYTES,
    HeaderPairs,
    InvalidResponse,
    ResponseParser,
    request_head,
)
from tests.support.response_heads import HEADERS

OK = b"HTTP/1.1 200 OK\r\n"


def parse(*parts: bytes, method: str = "GET") -> tuple[ResponseParser, bytes]:
    parser = ResponseParser(method)
    body = b""
    for part in parts:
        parser.feed_bytes(part)
        body += parser.take_body()
    return parser, body


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, none empty (an empty one would be the connection's end)."""
    borders = sorted({place % len(data) for place in places} - {0})
    pieces = zip([0, *borders], [*borders, len(data)], strict=True)
    return [data[start:end] for start, end in pieces]


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    lines = [b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    return b"".join(lines) + b"0\r\n" + trailer + b"\r\n"


@given(
    HEADERS,
    st.lists(st.binary(max_size=40), max_size=5),
    st.sampled_from(["length", "chunked", "close"]),
    st.lists(st.integers(min_value=0), max_size=30),
    st.booleans(),
)
def test_any_split_of_a_response_gives_the_same(
    headers: list[tuple[str, str]],
    pieces: list[bytes],
    framing: str,
    places: list[int],
    interim: bool,
) -> None:
    content = b"".join(pieces)
    own = {
        "length": [("Content-Length", str(len(content)))],
        "chunked": [("Transfer-Encoding", "chunked")],
        "close": [],
    }[framing]
    lines = "".join(f"{name}: {value}\r\n" for name, value in [*headers, *own])
    response = b"HTTP/1.1 418 I'm a teapot\r\n" + lines.encode("latin-1") + b"\r\n"
    response += chunked(pieces, b"X-Trailer: dropped\r\n") if framing == "chunked" else content
    if interim:
        response = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response

    parts = cut(response, places)
    parser, body = parse(*parts, *([b""] if framing == "close" else []))

    assert (parser.status, parser.reason) == (418, "I'm a teapot")
    assert list(parser.headers) == [*headers, *own]
    assert body == content
    assert parser.complete
    assert not parser.dirty
    assert parser.reusable == (framing != "close")


LINE_PARTS = st.sampled_from(
    [
        *(b"A", b"bc", b":", b": ", b" ", b"\t", b"\r\n", b"\r\n ", b"\n", b"\r", b"\x00", b"\xe9"),
        *(b"A: 1\r\n", b"Empty:\r\n", b"Blank: \t\r\n", b"Content-Length: 1\r\n"),
        b"Folded: 1\r\n 2\r\n",
    ]
)


@given(st.lists(LINE_PARTS, max_size=9), st.sampled_from([OK, b"HTTP/1.1 103 Early Hints\r\n"]))
def test_a_head_that_comes_whole_is_read_as_one_that_comes_in_bytes(
    parts: list[bytes], status: bytes
) -> None:
    def outcome(*pieces: bytes) -> object:
        try:
            parser, body = parse(*pieces)
        except InvalidResponse:
            return None
        return parser.status, list(parser.headers), body, parser.complete, parser.reusable

    response = status + b"".join(parts) + b"\r\n\r\nx"
    assert outcome(response) == outcome(*cut(response, list(range(len(response)))))


@given(HEADERS)
def test_a_request_head_keeps_every_line(headers: list[tuple[str, str]]) -> None:
    head = request_head("POST", b"/v1/%2F//a%zz?q=%41", headers).decode("latin-1")
    line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    assert line == "POST /v1/%2F//a%zz?q=%41 HTTP/1.1"
    assert lines == [f"{name}: {value}" for name, value in headers]


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not")]
)
@pytest.mark.parametrize("framing", ["Content-Length: 9", "Transfer-Encoding: chunked", "X: y"])
def test_responses_without_a_body_end_with_their_head(
    method: str, status: str, framing: str
) -> None:
    head = f"HTTP/1.1 {status}\r\n{framing}\r\n\r\n".encode()
    parser, body = parse(head, method=method)
    assert parser.complete
    assert parser.reusable
    assert body == b""


def test_interim_responses_leave_nothing_behind() -> None:
    parser, body = parse(
        b"HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n"
        b"HTTP/1.1 200 Fine\r\nContent-Length: 1\r\nA: 1\r\na: 2\r\n\r\nx"
    )
    assert (parser.status, parser.reason, body) == (200, "Fine", b"x")
    assert list(parser.headers) == [("Content-Length", "1"), ("A", "1"), ("a", "2")]
    assert parser.reusable


@pytest.mark.parametrize(
    "more",
    [b"x", OK + b"Content-Length: 0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"\x00\xff"],
)
def test_excess_costs_the_connection_not_the_response(more: bytes) -> None:
    parser, body = parse(OK + b"Content-Length: 3\r\n\r\nabc" + more)
    assert (parser.status, body) == (200, b"abc")
    assert list(parser.headers) == [("Content-Length", "3")]
    assert parser.complete
    assert parser.dirty
    assert not parser.reusable


def test_a_body_behind_head_is_excess() -> None:
    parser, body = parse(OK + b"Content-Length: 3\r\n\r\nabc", method="HEAD")
    assert parser.complete
    assert not parser.reusable
    assert body == b""


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_when_a_connection_may_be_kept(head: bytes, reusable: bool) -> None:
    parser, body = parse(head + b"Content-Length: 2\r\n\r\nok")
    assert body == b"ok"
    assert parser.reusable is reusable


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 3\n\nabc",
        OK + b"Content-Length: 3\nX: y\r\n\r\nabc",
        OK + b"X: a\r\n folded\r\n\r\n",
        OK + b"X: a\x00b\r\n\r\n",
        OK + b"X : y\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        OK + b"Content-Length: 3, 3\r\n\r\nabc",
        OK + b"Content-Length: -1\r\n\r\nabc",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_no_valid_response(response: bytes) -> None:
    with pytest.raises(InvalidResponse, match="not valid HTTP"):
        parse(response)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (b"", "closed the connection before"),
        (b"HTTP/1.1 20", "closed the connection before"),
        (OK + b"X: y\r\n", "closed the connection before"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed the connection before"),
        (OK + b"Content-Length: 3\r\n\r\nab", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "broke off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: trailer\r\n", "broke off"),
    ],
)
def test_an_end_before_the_end(response: bytes, message: str) -> None:
    parser = ResponseParser("GET")
    if response:
        parser.feed_bytes(response)
    with pytest.raises(InvalidResponse, match=message):
        parser.feed_bytes(b"")
    assert not parser.complete


@pytest.mark.parametrize("line", [b"X-A: b\r\n", b"HTTP/1.1 100 C\r\n\r\n", b"X" * 1000])
def test_a_head_without_end(line: bytes) -> None:
    start = b"" if line.startswith(b"HTTP") else OK
    parser = ResponseParser("GET")
    parser.feed_bytes(start or line)
    with pytest.raises(InvalidResponse, match="larger than"):  # noqa: PT012
        for _ in range(2 + MAX_HEAD_BYTES // len(line)):
            parser.feed_bytes(line)


def test_a_large_body_is_no_large_head() -> None:
    body = b"x" * (MAX_HEAD_BYTES + 1)
    parser, got = parse(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert parser.complete
    assert got == body


def test_trailers_are_not_kept() -> None:
    head = OK + b"Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
    parser, body = parse(head + b"1\r\na\r\n0\r\nX-T: 1\r\n", b"X-U: 2\r\n\r\n")
    assert [name for name, _ in parser.headers] == ["Transfer-Encoding", "Trailer"]
    assert body == b"a"
    assert parser.reusable


@pytest.mark.parametrize("line", [b"HTTP/1.1 200\r\n", b"HTTP/1.1 200 \r\n"])
def test_a_missing_reason(line: bytes) -> None:
    parser, _ = parse(line + b"Content-Length: 0\r\n\r\n")
    assert (parser.status, parser.reason) == (200, "")


def test_header_pairs() -> None:
    pairs = HeaderPairs([("Set-Cookie", "a"), ("set-cookie", "b")])
    assert list(pairs.items()) == [("Set-Cookie", "a"), ("set-cookie", "b")]
    assert pairs.get("SET-COOKIE") == "a"
    assert pairs.get("absent") is None
    assert pairs.get("absent", "x") == "x"
