"""What holds for the meter whatever the bytes and however they are cut."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.usage.counts import Usage
from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading
from tests.support.meter_cases import COMPRESSED, JSON, SSE, bytewise, chunked, finished, meter
from tests.support.sse_streams import LATE_CHUNK, LOOK_ALIKE, STREAMS, chat_chunk, sse

#: Many examples.
pytestmark = pytest.mark.slow


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(STREAMS)),
    st.sampled_from(sorted(COMPRESSED)),
    st.lists(st.floats(0, 1), max_size=20),
    st.floats(0, 1),
)
def test_any_split_of_any_stream_gives_the_same(
    name: str, encoding: str, cuts: list[float], end: float
) -> None:
    stream, usage, source = STREAMS[name]
    data = COMPRESSED[encoding](stream)
    whole = meter(*chunked(data, cuts), encoding=encoding)
    assert whole == Reading(None if usage == Usage() else usage, source)  # type: ignore[arg-type]
    cut = data[: int(end * len(data))]
    expected = meter(*bytewise(cut), encoding=encoding, complete=False)
    assert meter(*chunked(cut, cuts), encoding=encoding, complete=False) == expected


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [chat_chunk(usage=None), chat_chunk(), LATE_CHUNK, LOOK_ALIKE, b"[DONE]", b""]
        ),
        min_size=10,
        max_size=20,
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.floats(0, 1), max_size=30),
)
def test_the_fast_path_sees_what_the_decoder_sees(
    events: list[bytes], end: bytes, cuts: list[float]
) -> None:
    stream = sse(*events, end=end)
    fast, slow = UsageMeter(SSE), UsageMeter(SSE)
    for chunk in chunked(stream, cuts):
        fast.feed(chunk)
        for byte in bytewise(chunk):
            slow.feed(byte)
        assert fast.at_event_boundary == slow.at_event_boundary
    assert finished(fast, False) == finished(slow, False)
    assert finished(fast, True) == finished(slow, True)
    assert finished(fast, True).source == ("reported" if LATE_CHUNK in events else "none")


SOUP = st.lists(
    st.sampled_from(
        [
            b"data:",
            b" ",
            b"\n",
            b"\r",
            b"\n\n",
            b'{"usage":',
            b'"usage"',
            b":",
            b"null",
            b"{",
            b"}",
            b'"response":',
            b'"total_tokens":',
            b"-1",
            b"1e999",
            b"9" * 400,
            b"[" * 2000,
            b"true",
            b"\xff\xfe",
            b"\x00",
            b'"\\ud800"',
            b"event: ",
            b"\xef\xbb\xbf",
            b"[DONE]",
            b",",
        ]
    )
    | st.binary(max_size=20)
)


@settings(deadline=None)
@given(
    SOUP,
    st.sampled_from([SSE, JSON, "text/html", "", ";", "+json", "audio/x"]),
    st.sampled_from(["", "gzip", "deflate", "br", "\x00"]),
    st.sampled_from([0, 1, 20, 10**6]),
    st.booleans(),
)
def test_hostile_bytes_never_raise(
    chunks: list[bytes], kind: str, encoding: str, most: int, complete: bool
) -> None:
    reading = meter(*chunks, kind=kind, encoding=encoding, most=most, complete=complete)
    assert reading.source in ("reported", "partial", "none")
    squeezed = gzip.compress(b"".join(chunks))
    meter(squeezed, kind=kind, encoding=encoding, most=most, complete=complete)


def test_what_is_no_bytes_never_raises() -> None:
    for kind in (SSE, JSON):
        it = UsageMeter(kind)
        it.feed(None)  # type: ignore[arg-type]
        it.feed(b"data: x\n\n")
        assert finished(it) == Reading(None, "none")
