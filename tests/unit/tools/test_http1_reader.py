"""proxy/tools/http1_reader.py: responses end where they say, wherever what came was cut."""

import pytest

from proxy.tools.http1_reader import ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n1;ext=1\r\n \r\n00C\r\nto everybody\r\n0\r\nTrailer: 1\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
OPEN = b"HTTP/1.1 200 OK\r\n\r\n"


def read(wire: bytes, size: int | None = None, method: str = "GET") -> tuple[ResponseReader, bytes]:
    """In pieces of ``size`` bytes, then the end of the connection."""
    size = size or len(wire) or 1
    reader = ResponseReader(method)
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    body = b"".join(reader.read(piece) for piece in pieces)
    return reader, body + reader.read(b"")


def test_the_head_as_it_was_sent() -> None:
    lines = b"b: 2\r\nA:\t1 \r\nB:3\r\nX-Latin: \xa0caf\xe9\r\nContent-Length: 0\r\n"
    head = read(b"HTTP/1.1 299 Quite  Odd\r\n" + lines + b"\r\n")[0].head
    assert head is not None
    assert head.line == "HTTP/1.1 299 Quite  Odd"
    assert (head.version, head.status, head.reason) == ("HTTP/1.1", 299, "Quite  Odd")
    assert head.headers[:4] == (("b", "2"), ("A", "1"), ("B", "3"), ("X-Latin", "\xa0caf\xe9"))
    assert (head.value(b"a"), head.value(b"b"), head.value(b"c")) == (b"1", b"3", None)


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", True),
        (b"HTTP/1.0 200\r\n", True),
        (b"HTTP/1.0 200 OK\r\nCONNECTION: keep-alive\r\n", False),
    ],
)
def test_who_closes_says_so(head: bytes, closes: bool) -> None:
    made = read(head + b"\r\n")[0].head
    assert made is not None
    assert made.closes is closes


@pytest.mark.parametrize("size", range(1, len(CHUNKED + CHUNKS) + 1))
def test_chunks_cut_anywhere(size: int) -> None:
    reader, body = read(CHUNKED + CHUNKS, size)
    assert (body, reader.ended, reader.problem) == (b"hello to everybody", True, "")
    assert (reader.chunks, reader.trailers, reader.unread) == (3, 1, b"")


@pytest.mark.parametrize("until", range(len(CHUNKS)))
def test_chunks_that_are_cut_off(until: int) -> None:
    reader, body = read(CHUNKED + CHUNKS[:until])
    assert b"hello to everybody".startswith(body)
    assert (reader.ended, reader.problem) == (False, "the response was cut off")


def test_each_piece_of_a_stream_as_it_came() -> None:
    reader = ResponseReader()
    pieces = [CHUNKED, b"3\r\na\r\n\r\n", b"6\r\nb", b"cd", b"\r\n", b"e\r\n", b"0\r\n\r\n"]
    assert [reader.read(piece) for piece in pieces] == [
        *(b"", b"a\r\n", b"b", b"cd", b"\r\n", b"e", b""),
    ]
    assert reader.ended


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunk_by_chunk(size: int) -> None:
    wire, chunks = CHUNKED + CHUNKS + b"MORE", []
    reader, piece = ResponseReader(), b""
    for at in range(0, len(wire), size):
        reader.feed(wire[at : at + size])
        while reader.head is None and reader.next_head():
            pass
        count = -1
        while reader.head and count != reader.chunks and not reader.ended:
            count = reader.chunks
            piece += reader.read_chunk()
            if reader.chunks > count:
                chunks.append(piece)
                piece = b""
    assert chunks == [b"hello", b" ", b"to everybody"]
    assert (reader.ended, piece, reader.read_chunk(), reader.take()) == (True, b"", b"", b"MORE")
    assert reader.unread == b""


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"x\r\n", b""),
        (b"-1\r\n", b""),
        (b"0x1\r\n", b""),
        (b"\r\n", b""),
        (b"1\r\nab\r\n", b"a"),
        (b"1\r\nbX0\r\n\r\n", b"b"),
        (b"1" * 20_000, b""),
        (b"2;" + b"x" * 20_000, b""),
        (b"1\r\nc\r\n0\r\nX: " + b"x" * 20_000, b"c"),
    ],
)
def test_chunks_that_are_none(data: bytes, body: bytes) -> None:
    reader = ResponseReader()
    assert reader.read(CHUNKED + data) == body
    assert reader.problem
    assert not reader.ended
    assert (reader.read(b"1\r\nx\r\n"), reader.ended) == (b"", False)


def test_a_length_is_kept() -> None:
    reader = ResponseReader()
    assert (reader.read(SIZED + b"a"), reader.ended) == (b"a", False)
    assert (reader.read(b"bcd"), reader.ended, reader.unread) == (b"bc", True, b"d")
    assert read(SIZED + b"ab")[0].problem == "the response was cut off"


def test_a_body_until_the_close() -> None:
    reader = ResponseReader()
    assert (reader.read(OPEN + b"a"), reader.read(b"b"), reader.ended) == (b"a", b"b", False)
    assert (reader.read(b""), reader.ended, reader.problem) == (b"", True, "")


@pytest.mark.parametrize(
    ("method", "head", "framing"),
    [
        ("GET", b"200 OK\r\nContent-Length: 3\r\n", "length"),
        ("GET", b"200 OK\r\nContent-Length: 3\r\nTRANSFER-encoding: gzip, Chunked\r\n", "chunked"),
        ("GET", b"200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\n", "close"),
        ("GET", b"200 OK\r\n", "close"),
        ("HEAD", b"200 OK\r\nContent-Length: 3\r\n", "none"),
        ("HEAD", b"200 OK\r\nTransfer-Encoding: chunked\r\n", "none"),
        ("GET", b"101 Switching Protocols\r\n", "none"),
        ("GET", b"204 No Content\r\n", "none"),
        ("GET", b"304 Not Modified\r\nContent-Length: 3\r\n", "none"),
    ],
)
def test_which_framing(method: str, head: bytes, framing: str) -> None:
    reader = ResponseReader(method)
    reader.read(b"HTTP/1.1 " + head + b"\r\n")
    assert (reader.framing, reader.ended) == (framing, framing == "none")


@pytest.mark.parametrize("length", [b"-3", b"x", b"", b"3, 3", b"9" * 5000])
def test_a_length_that_is_none(length: bytes) -> None:
    reader = ResponseReader()
    assert reader.read(SIZED.replace(b" 3", b" " + length) + b"abc") == b""
    assert reader.problem == "the response's length is not valid"


@pytest.mark.parametrize("size", [1, 1000])
def test_interim_responses_are_counted(size: int) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    reader, body = read(interim + SIZED + b"abc", size)
    assert (reader.interim, body, reader.ended) == (2, b"abc", True)


def test_heads_one_by_one() -> None:
    reader = ResponseReader(unread=b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED[:20])
    first = reader.next_head()
    assert first is not None
    assert (first.status, reader.head, reader.next_head()) == (100, None, None)
    reader.feed(SIZED[20:] + b"a")
    assert (reader.next_head(), reader.unread) == (reader.head, b"a")


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (b"", "the connection was closed before the end"),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n", "the connection was closed before the end"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "the connection was closed before the end"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/2 200 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 300_000, "too much came"),
    ],
)
def test_no_response(wire: bytes, problem: str) -> None:
    reader, body = read(wire)
    assert problem in reader.problem
    assert (reader.head, body, reader.ended) == (None, b"", False)
