"""The frame reader against a foreign one, and the counts of a realtime conversation."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from proxy.usage.websocket import FrameReader, WebSocketMeter

SERVER = FrameProtocol(client=False, extensions=[])


def message(payload: bytes, opcode: Opcode = Opcode.TEXT) -> bytes:
    """One unfragmented frame, as a server sends it."""
    return bytes(SERVER._serialize_frame(opcode, payload))


def fragmented(parts: list[bytes]) -> bytes:
    frames = b""
    for number, part in enumerate(parts):
        opcode = Opcode.TEXT if number == 0 else Opcode.CONTINUATION
        frames += bytes(SERVER._serialize_frame(opcode, part, fin=number == len(parts) - 1))
    return frames


def feed_split(reader: FrameReader, data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    found = []
    for start, end in itertools.pairwise(places):
        found += list(reader.feed(data[start:end]))
    return found


CUTS = st.lists(st.integers(min_value=0, max_value=100_000), max_size=20)
TEXT = st.text(max_size=200).map(str.encode)


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
def test_too_long_messages_go_by_and_the_next_is_read(cuts: list[int]) -> None:
    data = message(b"y" * 5000) + fragmented([b"z" * 900, b"z" * 900]) + message(b"short")
    assert feed_split(FrameReader(1000), data, cuts) == [b"short"]


def test_a_ping_within_a_message() -> None:
    first, second = fragmented([b"a", b"b"])[:3], fragmented([b"a", b"b"])[3:]
    reader = FrameReader(100)
    assert list(reader.feed(first + message(b"", Opcode.PING) + second)) == [b"ab"]


def test_nothing_may_follow_a_close_frame() -> None:
    reader = FrameReader(100)
    assert reader.at_boundary
    assert list(reader.feed(message(b"\x03\xe8", Opcode.CLOSE))) == []
    assert not reader.at_boundary


def done(identifier: str, total: int) -> bytes:
    usage = {
        "total_tokens": total,
        "input_tokens": total - 2,
        "output_tokens": 2,
        "input_token_details": {"cached_tokens": 1, "text_tokens": 1, "audio_tokens": 0},
    }
    response = {
        "object": "realtime.response",
        "id": identifier,
        "status": "completed",
        "usage": usage,
    }
    return json.dumps({"type": "response.done", "event_id": "e", "response": response}).encode()


def test_counts_of_a_conversation_add_up() -> None:
    meter = WebSocketMeter()
    session = {"type": "session.created", "session": {"id": "sess", "model": "gpt-realtime"}}
    meter.feed(message(json.dumps(session).encode()))
    meter.feed(message(b'{"type":"response.output_text.delta","delta":"\\"response.done\\""}'))
    meter.feed(message(done("resp_1", 10)))
    meter.feed(message(done("resp_2", 32)))
    reading = meter.result()
    assert reading.source == "reported"
    assert reading.usage is not None
    assert reading.usage.model == "gpt-realtime"
    assert reading.usage.response_id == "resp_2"
    assert reading.usage.total_tokens == 42
    assert reading.usage.prompt_tokens == 38
    assert reading.usage.completion_tokens == 4


def test_nothing_told_is_none() -> None:
    assert WebSocketMeter().result().source == "none"


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1\x02hi",  # compressed
        b"\x81\x82\0\0\0\0hi",  # masked
        message(b"\xff\xfe{"),
        message(b'{"type":"response.done"'),
        message(b'["response.done"]'),
        message(b'{"type":"response.done","response":7}'),
        message(b'{"type":"session.created","session":7}'),
    ],
)
def test_what_it_cannot_read_is_not_its_business(data: bytes) -> None:
    meter = WebSocketMeter()
    meter.feed(data)
    meter.feed(message(done("resp_1", 10)))
    assert meter.result().source in ("none", "reported")


@given(st.binary(max_size=400))
def test_hostile_bytes_never_raise(data: bytes) -> None:
    meter = WebSocketMeter()
    meter.feed(data)
    meter.result()


def test_where_a_frame_of_our_own_may_stand() -> None:
    meter = WebSocketMeter(max_message=20)
    places = []
    data = message(b"hello") + message(b"x" * 50) + message(b"\0" * 8, Opcode.BINARY)
    for number in range(len(data)):
        meter.feed(data[number : number + 1])
        if meter.at_frame_boundary:
            places.append(number + 1)
    assert places == [7, 59, 69]
    meter.feed(message(b"", Opcode.CLOSE))
    assert not meter.at_frame_boundary, "it has been closed"
    other = WebSocketMeter()
    assert other.at_frame_boundary
    other.feed(b"\xff\xff no frames at all")
    assert not other.at_frame_boundary
