"""Chunked bodies: what gunicorn's decoder gives, in fewer pieces, and what is refused."""

import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.server import chunked_body
from proxy.server.chunked_body import FREE_FRAMING_BYTES, MAX_SIZE_LINE_BYTES, Chunks
from proxy.server.request_body import _translated
from tests.support.loop_probe import LoopProbe

HEAD = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
CONFIG = Config()
CONFIG.set("http_parser", "python")
#: Well-formed and broken pieces of a chunked body.
PARTS = st.sampled_from(
    [
        b"1\r\na\r\n", b"3\r\nabc\r\n", b"A\r\n0123456789\r\n", b"0a\r\n0123456789\r\n",
        b"3;x=y\r\nabc\r\n", b'3 ; x="y;z"\r\nabc\r\n', b"3\t\r\nabc\r\n", b" 3\r\nabc\r\n",
        b"+3\r\nabc\r\n", b"0x3\r\nabc\r\n", b"1_0\r\nabc\r\n", b"3\nabc\n", b"3\r\nabcd\r\n",
        b"3\r\nab\r\n", b"\r\n", b"0\r\n\r\n", b"00\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n",
        b"0;x\r\n\r\n", b"0\r\nbad trailer\r\n\r\n", b"0\r\nA: b\n\r\n", b"ffffffffffffffff\r\n",
    ]
)  # fmt: skip
CUTS = st.lists(st.integers(0, 10_000), max_size=8)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places) if a < b]


def outcome(pieces: list[bytes], ours: bool) -> tuple[object, ...]:
    """The body and what is left for the next request, or what is wrong with it."""
    unreader = IterUnreader(iter([HEAD, *pieces]))
    request = Request(CONFIG, unreader, ("127.0.0.1", 1))
    reader = Chunks(request, unreader) if ours else request.body.reader
    parser: Iterator[bytes] = reader.parser
    try:
        body = list(parser)
    except Exception as error:  # noqa: BLE001
        return (str(_translated(error)).replace("ended before it was complete", "X"),)
    if ours:
        assert all(body), "no piece is empty"
    rest = b"".join(iter(unreader.read, b""))
    return b"".join(body), rest, request.trailers


@given(parts=st.lists(PARTS, max_size=8), cuts=CUTS)
def test_it_takes_what_gunicorn_takes(parts: list[bytes], cuts: list[int]) -> None:
    pieces = split(b"".join(parts) + b"0\r\n\r\nGET /next", cuts)
    expected = outcome(pieces, ours=False)
    got = outcome(pieces, ours=True)
    # Which of two faults is named may depend on what arrived together; not that there is one.
    assert got == expected if len(expected) > 1 else len(got) == 1


def pieces_of(*arrived: bytes) -> list[bytes]:
    unreader = IterUnreader(iter([HEAD, *arrived]))
    request = Request(CONFIG, unreader, ("127.0.0.1", 1))
    return list(Chunks(request, unreader).parser)


def test_chunks_that_arrived_together_are_one_piece() -> None:
    together = b"1\r\na\r\n" * 3 + b"2\r\nbc"
    assert pieces_of(together, b"\r\n1\r\nd\r\n", b"0\r\n\r\n") == [
        b"aaa",
        b"bc",
        b"d",
    ]


def test_a_large_chunk_passes_as_it_arrives() -> None:
    assert pieces_of(b"5\r\nab", b"cd", b"e\r\n0\r\n\r\n") == [b"ab", b"cd", b"e"]


@pytest.mark.parametrize(
    "chunk", [b"1\r\nx\r\n", b"01\r\nx\r\n", b"3;" + b"e" * 200 + b"\r\nabc\r\n"]
)
def test_a_body_that_is_mostly_framing_is_refused(chunk: bytes) -> None:
    with pytest.raises(ClientError, match="chunk framing") as caught:
        pieces_of(chunk * (FREE_FRAMING_BYTES // 4))
    assert caught.value.code == "invalid_request"


@pytest.mark.parametrize(
    ("chunk", "times"), [(b"1\r\nx\r\n", 10_000), (b"8\r\n" + b"x" * 8 + b"\r\n", 100_000)]
)
def test_small_chunks_are_taken(chunk: bytes, times: int) -> None:
    """As clients send them that write word by word: a few thousand of one byte, any number of
    those that are larger than their framing."""
    size = int(chunk.partition(b"\r\n")[0], 16)
    assert sum(map(len, pieces_of(chunk * times, b"0\r\n\r\n"))) == size * times


def test_many_chunks_in_hand_leave_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[Any] = []
    monkeypatch.setattr(chunked_body, "turn_if_due", lambda: turns.append(1))
    pieces_of(b"8\r\n" + b"x" * 8 + b"\r\n" + (b"8\r\n" + b"x" * 8 + b"\r\n") * 9999, b"0\r\n\r\n")
    assert len(turns) >= 30


def test_it_gives_them() -> None:
    with LoopProbe() as other:
        before = other.served
        for _ in range(100):
            pieces_of((b"8\r\n" + b"x" * 8 + b"\r\n") * 10_000, b"0\r\n\r\n")
            if other.served - before > 2:
                break
        assert other.served - before > 2


def read(data: bytes, by: int) -> bytes:
    pieces = [data[at : at + by] for at in range(0, len(data), by)]
    request = SimpleNamespace(
        limit_request_field_size=32760,
        max_buffer_headers=131072,
        parse_headers=lambda data, from_trailer: [],
    )
    return Chunks(request, IterUnreader(iter(pieces))).read(1 << 20)


@pytest.mark.parametrize("by", [1, 7, 1 << 20])
def test_extensions_are_read_over(by: int) -> None:
    signature = b"chunk-signature=" + b"0" * 64
    assert (
        read(b'4;%b\r\nabcd\r\n5;a="b;c"\r\nefghi\r\n0;a\r\n\r\n' % signature, by) == b"abcdefghi"
    )
    longest = b"4;" + b"a" * (MAX_SIZE_LINE_BYTES - 2)
    assert read(longest + b"\r\nabcd\r\n0\r\n\r\n", by) == b"abcd"


@pytest.mark.parametrize("by", [1, 700, 1 << 20])
@pytest.mark.parametrize("before", [b"", b"1\r\nx\r\n"])
@pytest.mark.parametrize("end", [b"", b"\r\nabcd\r\n0\r\n\r\n"])
def test_a_size_line_is_bounded(before: bytes, end: bytes, by: int) -> None:
    """Its end may be in sight already, or never come."""
    line = b"4;" + b"a" * (MAX_SIZE_LINE_BYTES - 1)
    with pytest.raises(errors.InvalidChunkSize):
        read(before + line + end + b"a" * (0 if end else 100_000), by)
