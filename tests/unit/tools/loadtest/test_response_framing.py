"""proxy/tools/loadtest/connection.py: bodies end where they say, wherever what came was cut."""

import pytest

from proxy.tools.loadtest.connection import (
    Body,
    Chunked,
    EventTimes,
    Malformed,
    OfLength,
    UntilClose,
    body_of,
)

CHUNKS = b"5\r\nhello\r\n1;ext=1\r\n \r\n00C\r\nto everybody\r\n0\r\nTrailer: 1\r\n\r\n"


def fed(body: Body, *pieces: bytes) -> bytes:
    return b"".join(body.feed(piece) for piece in pieces)


@pytest.mark.parametrize("size", range(1, len(CHUNKS) + 1))
def test_chunks_cut_anywhere(size: int) -> None:
    body = Chunked()
    pieces = [CHUNKS[at : at + size] for at in range(0, len(CHUNKS), size)]
    taken = fed(body, *pieces[:-1])
    assert not body.ended
    assert taken + body.feed(pieces[-1]) == b"hello to everybody"
    assert body.ended


@pytest.mark.parametrize(
    "data",
    [b"x\r\n", b"-1\r\n", b"\r\n", b"1\r\nab\r\n", CHUNKS + b"more", b"1" * 20_000],
)
def test_chunks_that_are_none(data: bytes) -> None:
    with pytest.raises(Malformed):
        Chunked().feed(data)


def test_a_length_is_kept() -> None:
    body = OfLength(3)
    assert (body.feed(b"a"), body.ended) == (b"a", False)
    assert (body.feed(b"bc"), body.ended) == (b"bc", True)
    with pytest.raises(Malformed):
        body.feed(b"d")


@pytest.mark.parametrize(
    ("method", "status", "fields", "kind"),
    [
        ("GET", 200, {b"content-length": b"3"}, OfLength),
        ("GET", 200, {b"content-length": b"3", b"transfer-encoding": b"chunked"}, Chunked),
        ("GET", 200, {}, UntilClose),
        ("HEAD", 200, {b"content-length": b"3"}, OfLength),
        ("GET", 204, {}, OfLength),
    ],
)
def test_which_framing(method: str, status: int, fields: dict[bytes, bytes], kind: type) -> None:
    body = body_of(method, status, fields)
    assert isinstance(body, kind)
    assert body.ended == (method == "HEAD" or status == 204)


def test_a_length_that_is_none() -> None:
    with pytest.raises(Malformed):
        body_of("GET", 200, {b"content-length": b"-3"})


def test_events_and_when_they_came() -> None:
    events = EventTimes()
    events.end(0.5)
    assert (events.count, events.first_at, events.stall) == (0, None, 0.0)
    events.feed(b": ping\n\ndata: o", 1.0)
    assert events.first_at is None
    events.feed(b"ne\r\n\r", 2.0)
    events.feed(b"\nevent: a\ndata: two\n\n", 3.0)
    assert (events.count, events.first_at) == (2, 3.0)
    events.feed(b"data: three\r\rdata: four\n\n", 7.5)
    events.feed(b": ping\n\n", 20.0)
    assert (events.count, events.stall) == (4, 4.5)
    events.end(13.0)
    assert events.stall == 5.5
