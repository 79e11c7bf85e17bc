from __future__ import annotations

import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.usage.sse import SseDecoder, SseEvent


def decode(*chunks: bytes, max_event_bytes: int = 1000) -> list[SseEvent]:
    decoder = SseDecoder(max_event_bytes)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def bytewise(stream: bytes, max_event_bytes: int = 1000) -> list[SseEvent]:
    return decode(*(stream[i : i + 1] for i in range(len(stream))), max_event_bytes=max_event_bytes)


def message(*data: bytes) -> list[SseEvent]:
    return [SseEvent("message", each) for each in data]


# The examples of the standard, then what services send.
CASES = [
    (b"data: YHOO\ndata: +2\ndata: 10\n\n", message(b"YHOO\n+2\n10")),
    (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n",
        message(b"first event", b"second event", b" third"),
    ),
    (b"data\n\ndata\ndata\n\ndata:", message(b"", b"\n")),
    (b"data:test\n\ndata: test\n\n", message(b"test", b"test")),
    (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", message(b"a", b"b", b"c")),
    (b"data: a\r\ndata: b\rdata: c\n\r\n", message(b"a\nb\nc")),
    (b"\xef\xbb\xbfdata: a\n\n", message(b"a")),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),  # only one is a BOM
    (b"\xef\xbb\xbf", []),
    (b"event: e\ndata: a\n\ndata: b\n\n", [SseEvent("e", b"a"), SseEvent("message", b"b")]),
    (b"data: a\nevent: e\n\n", [SseEvent("e", b"a")]),
    (b"event: e\nevent\ndata: a\n\n", message(b"a")),
    (b"event: e\nevent:f\ndata: a\n\n", [SseEvent("f", b"a")]),
    (b"event: e\n\ndata: a\n\n", message(b"a")),  # without data it is no event, and leaves no name
    (b"event: \xff\ndata: \xff\n\n", [SseEvent("\ufffd", b"\xff")]),
    (b"data: a\n: comment\ndata: b\n\n", message(b"a\nb")),
    (b"dataset: a\nretry: 10\nDATA: b\n data: c\n\n", []),
    (
        b"data: a\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8b\n\n",
        message(b"a\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8b"),
    ),
    (b"data: a", []),
    (b"data: a\n", []),
    (b"\n\n\n\r\n\r\n\r\r", []),
]


@pytest.mark.parametrize(("stream", "events"), CASES, ids=[repr(case[0][:40]) for case in CASES])
def test_cases_in_one_chunk_and_byte_by_byte(stream: bytes, events: list[SseEvent]) -> None:
    assert decode(stream) == events
    assert bytewise(stream) == events


def test_an_event_is_out_as_soon_as_its_blank_line_is_in() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\r\n") == []
    assert decoder.feed(b"\r") == message(b"a")  # the LF may come late, or never
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: b\n\n") == message(b"b")


@pytest.mark.parametrize(
    ("stream", "boundary"),
    [
        (b"", True),
        (b"data: a\n\n", True),
        (b"data: a\r\n\r\n", True),
        (b"data: a\r\n\r", True),
        (b": ping\n", True),
        (b"data: a\n\n: ping\n", True),
        (b": pi", False),
        (b"data: a\n", False),
        (b"data: a\n\nid: 5\n", False),
        (b"data: a\n\nd", False),
        (b"\xef\xbb", False),
        (b"\xef\xbb\xbf", True),
        (b"data: " + b"x" * 2000, False),
        (b"data: " + b"x" * 2000 + b"\n", False),
        (b"data: " + b"x" * 2000 + b"\n\n", True),
    ],
)
def test_at_boundary(stream: bytes, boundary: bool) -> None:
    decoder = SseDecoder(1000)
    decoder.feed(stream)
    assert decoder.at_boundary is boundary
    decoder = SseDecoder(1000)
    for i in range(len(stream)):
        decoder.feed(stream[i : i + 1])
    assert decoder.at_boundary is boundary


@pytest.mark.parametrize(
    "large",
    [
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: x\n" * 50 + b"\n",
        b"event: " + b"x" * 200 + b"\ndata: y\n\n",
        b"data: y\n: " + b"x" * 200 + b"\n\n",
        b"data: " + b"x" * 200 + b"\nevent: e\ndata: z\n\n",
    ],
)
def test_a_large_event_is_skipped_and_nothing_else(large: bytes) -> None:
    stream = b"data: a\n\n" + large + b"data: b\n\n"
    assert decode(stream, max_event_bytes=100) == message(b"a", b"b")
    assert bytewise(stream, max_event_bytes=100) == message(b"a", b"b")


@pytest.mark.parametrize("comments", [b": " + b"x" * 200 + b"\n", b": ping\n" * 100])
def test_comments_between_events_make_no_event_large(comments: bytes) -> None:
    stream = comments + b"data: a\n\n" + comments
    assert decode(stream, max_event_bytes=100) == message(b"a")
    assert bytewise(stream, max_event_bytes=100) == message(b"a")


def test_the_bound_is_exact() -> None:
    event = b"data: " + b"x" * 93 + b"\n"
    assert len(event) == 100
    assert len(decode(event + b"\n", max_event_bytes=100)) == 1
    assert decode(event + b"\n", max_event_bytes=99) == []


@pytest.mark.parametrize("piece", [b"x" * 1000, b"xy", b"data: x\n", b"data\n", b": x\n"])
def test_memory_is_bounded_whatever_comes(piece: bytes) -> None:
    decoder = SseDecoder(10_000)
    decoder.feed(b"data: a\n" if piece.endswith(b"\n") else b"data: ")
    for _ in range(200_000 // len(piece)):
        decoder.feed(piece)
        held = sum(sys.getsizeof(part) for part in (decoder._line, decoder._data))
        assert held < 30_000


def test_a_large_event_in_small_chunks_is_not_quadratic() -> None:
    def seconds(size: int) -> float:
        chunks = [b"data: "] + [b"x" * 20] * (size // 20) + [b"\n\n"]
        decoder = SseDecoder()
        start = time.perf_counter()
        events = [event for chunk in chunks for event in decoder.feed(chunk)]
        assert len(events) == 1
        return time.perf_counter() - start

    # Four times the size: four times the time, or sixteen if it were quadratic.
    small, large = (min(seconds(size) for _ in range(3)) for size in (500_000, 2_000_000))
    assert large < 10 * small


LINES = st.sampled_from(
    [
        b"data: a",
        b"data:",
        b"data",
        b"data: " + b"x" * 40,
        b"event: e",
        b"event",
        b": c",
        b"id: 1",
        b": " + b"x" * 40,
        b"",
        b"",
        b"\xef\xbb\xbf",
        b"data: \xc3\xa9",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.lists(st.tuples(LINES, ENDS)).map(lambda rows: b"".join(a + b for a, b in rows))
CUTS = st.lists(st.integers(0, 400))


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(st.booleans(), STREAMS | st.binary(), CUTS, st.sampled_from([60, 1000]))
def test_borders_may_fall_anywhere(bom: bool, stream: bytes, cuts: list[int], most: int) -> None:
    stream = (b"\xef\xbb\xbf" if bom else b"") + stream
    whole, parts = SseDecoder(most), SseDecoder(most)
    expected = whole.feed(stream)
    assert [event for chunk in split(stream, cuts) for event in parts.feed(chunk)] == expected
    assert parts.at_boundary is whole.at_boundary


def reference(stream: bytes) -> list[SseEvent]:
    """The standard's algorithm, word for word, on the whole stream."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events = []
    data, name = b"", b""
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                events.append(SseEvent(name.decode("utf-8", "replace") or "message", data[:-1]))
            data, name = b"", b""
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data += value + b"\n"
            elif field == b"event":
                name = value
    return events


@given(STREAMS | st.binary())
def test_decodes_as_the_standard_says(stream: bytes) -> None:
    assert decode(stream, max_event_bytes=10**6) == reference(stream)
