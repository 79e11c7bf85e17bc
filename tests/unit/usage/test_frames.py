"""The frame reader against another implementation."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import Opcode

from proxy.usage.frames import FrameReader, Message
from tests.support.websocket_frames import fragmented, message


def feed_split(reader: FrameReader, data: bytes, cuts: list[int]) -> list[Message]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    found: list[Message] = []
    for start, end in itertools.pairwise(places):
        found += list(reader.feed(data[start:end]))
    return found


CUTS = st.lists(st.integers(min_value=0, max_value=100_000), max_size=20)
TEXT = st.text(max_size=200).map(str.encode)


@pytest.mark.slow
@given(
    messages=st.lists(
        st.one_of(
            TEXT.map(lambda text: ("text", [text])),
            st.lists(TEXT, min_size=2, max_size=4).map(lambda parts: ("parts", parts)),
            st.binary(max_size=300).map(lambda data: ("binary", [data])),
            st.binary(max_size=100).map(lambda data: ("ping", [data])),
        ),
        max_size=8,
    ),
    cuts=CUTS,
)
def test_any_split_gives_the_messages(
    messages: list[tuple[str, list[bytes]]], cuts: list[int]
) -> None:
    data, expected = b"", []
    for kind, parts in messages:
        if kind == "binary":
            data += message(parts[0], Opcode.BINARY)
        elif kind == "ping":
            data += message(parts[0], Opcode.PING)
        else:
            data += fragmented(parts)
            expected.append(b"".join(parts))
    assert feed_split(FrameReader(1 << 20), data, cuts) == expected


@given(size=st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000]), cuts=CUTS)
def test_every_form_of_length(size: int, cuts: list[int]) -> None:
    payload = b"x" * size
    assert feed_split(FrameReader(1 << 20), message(payload), cuts) == [payload]


@given(cuts=CUTS)
def test_of_too_long_messages_the_members_that_matter_are_read(cuts: list[int]) -> None:
    long = [
        b'{"type":"x","text":"' + b"z" * 900,
        b"z" * 900 + b'"',
        b',"usage":{"total_tokens":3}}',
    ]
    data = message(b"y" * 5000) + fragmented(long) + message(b"short")
    members = {"type": "x", "usage": {"total_tokens": 3}}
    assert feed_split(FrameReader(1000), data, cuts) == [members, b"short"]


def test_memory_is_bounded() -> None:
    reader = FrameReader(1000)
    frame = b"\x81\x7f" + (10**12).to_bytes(8)
    assert list(reader.feed(frame + b'{"a":"')) == []
    for _ in range(100):
        assert list(reader.feed(b"x" * 65_536)) == []
        assert len(reader._buffer) == 0
    assert not reader.at_boundary


def test_a_ping_within_a_message() -> None:
    first, second = fragmented([b"a", b"b"])[:3], fragmented([b"a", b"b"])[3:]
    reader = FrameReader(100)
    assert list(reader.feed(first + message(b"", Opcode.PING) + second)) == [b"ab"]


def test_nothing_may_follow_a_close_frame() -> None:
    reader = FrameReader(100)
    assert reader.at_boundary
    assert list(reader.feed(message(b"\x03\xe8", Opcode.CLOSE))) == []
    assert not reader.at_boundary
