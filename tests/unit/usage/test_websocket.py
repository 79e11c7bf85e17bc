"""The usage that is reported over a WebSocket (`proxy/usage/websocket.py`)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import Opcode

from proxy.usage.websocket import WebSocketMeter
from tests.support.websocket_frames import fragmented, message


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


def event(kind: str, **more: object) -> bytes:
    return message(json.dumps({"type": kind, **more}).encode())


def response(identifier: str, **more: object) -> dict[str, object]:
    usage = {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}
    usage["input_tokens_details"] = {"cached_tokens": 4}  # type: ignore[assignment]
    return {"id": identifier, "object": "response", "model": "m-1", "usage": usage, **more}


def counted(*frames: bytes, most: int = 10**6) -> tuple[str, int | None]:
    """The source and the total of what these frames say."""
    meter = WebSocketMeter(most)
    for frame in frames:
        meter.feed(frame)
    usage, source = meter.result()
    return source, usage and usage.total_tokens


def test_responses_in_websocket_mode() -> None:
    meter = WebSocketMeter()
    begun = response("r1", status="in_progress", usage=None)
    meter.feed(event("response.created", response=begun))
    meter.feed(event("response.in_progress", response=begun))
    for number, kind in enumerate(("completed", "incomplete", "failed", "cancelled"), 1):
        meter.feed(event(f"response.{kind}", response=response(f"r{number}", status=kind)))
    usage, source = meter.result()
    assert source == "reported"
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (144, 348, 492)
    assert (usage.model, usage.cached_tokens) == ("m-1", 16)


def test_each_response_once() -> None:
    both = [
        event(kind, response=response("r1")) for kind in ("response.completed", "response.done")
    ]
    assert counted(*both) == ("reported", 123)
    # One id for all: each turn counts, and still once.
    assert counted(*both, *both) == ("reported", 246)
    assert counted(both[1], both[1], both[0]) == ("reported", 246)


def test_transcriptions_count() -> None:
    session = {"type": "transcription", "audio": {"input": {"transcription": {"model": "whisper"}}}}
    kind = "conversation.item.input_audio_transcription.completed"
    tokens = {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59}
    meter = WebSocketMeter()
    meter.feed(event("session.created", session=session))
    meter.feed(event(kind, item_id="i1", transcript="Hi", usage=tokens))
    meter.feed(event(kind, item_id="i2", usage={"type": "duration", "seconds": 1.5}))
    meter.feed(event(kind, item_id="i3", usage={"type": "duration", "seconds": 2}))
    meter.feed(event(kind.replace("completed", "delta"), item_id="i3", usage=tokens))
    usage, source = meter.result()
    assert source == "reported"
    assert usage is not None
    assert usage.as_metadata() == {
        "model": "whisper",
        "prompt_tokens": 14,
        "completion_tokens": 45,
        "total_tokens": 59,
        "seconds": 3.5,
    }


@pytest.mark.parametrize(
    ("kind", "session", "model"),
    [
        ("session.updated", {"model": "m"}, "m"),
        (
            "transcription_session.updated",
            {"model": None, "input_audio_transcription": {"model": "t"}},
            "t",
        ),
        ("session.created", {"audio": {"input": None}}, None),
        ("session.created", None, None),
    ],
)
def test_the_sessions_model(kind: str, session: object, model: str | None) -> None:
    meter = WebSocketMeter()
    meter.feed(event(kind, session=session))
    usage, _ = meter.result()
    assert (usage and usage.model) == model


def test_a_response_without_an_end_makes_the_counts_partial() -> None:
    ended = event("response.done", response=response("r1"))
    begun = event("response.created", response=response("r2", usage=None))
    assert counted(ended, begun) == ("partial", 123)
    failed = event("response.failed", response=response("r2", usage=None))
    assert counted(ended, begun, failed) == ("reported", 123)
    one_sided = response("r3", usage={"input_tokens": 5, "total_tokens": 5})
    assert counted(event("response.completed", response=one_sided)) == ("partial", 5)


HALF = done("r", 10).replace(b'"status": "completed"', b'"output": [{"text": "cut \\ud83d"}]')


@pytest.mark.parametrize(
    ("odd", "total"),
    [
        (HALF, 30),
        (done("r", 10).replace(b'"e"', b"NaN"), 30),
        (done("r", 10).replace(b'"e"', b'"\x1b\xff"'), 30),
        (b'{"type": "response.done", oops', 20),
        (b'{"type": ["response.done"], "usage": {}}', 20),
        (b'["response.done"]', 20),
        (b'{"type": "response.done", "response": 7}', 20),
        (b'{"type": "session.created", "session": 7}', 20),
        (b"\xff\xfe" + done("r", 10), 20),
    ],
)
def test_a_message_that_cannot_be_read_costs_itself_at_most(odd: bytes, total: int) -> None:
    frames = [message(done("r1", 10)), message(odd), message(done("r2", 10))]
    assert counted(*frames) == ("reported", total)


def test_large_messages_keep_their_usage() -> None:
    output = json.dumps([{"audio": "A" * (2 << 20)}]).encode()
    large = done("r1", 10).replace(b'"status"', b'"output": ' + output + b', "status"')
    pieces = [message(large)[at : at + 65_536] for at in range(0, len(large) + 10, 65_536)]
    assert counted(*pieces, message(done("r2", 10)), most=256 * 1024) == (
        "reported",
        20,
    )
    parts = fragmented([large[at : at + 100_000] for at in range(0, len(large), 100_000)])
    assert counted(parts, message(done("r2", 10))) == ("reported", 20)


def test_what_is_remembered_is_bounded() -> None:
    meter = WebSocketMeter()
    for number in range(1500):
        meter.feed(event("response.created", response={"id": f"o{number}"}))
        meter.feed(event("response.done", response=response(f"r{number}")))
    assert len(meter._ended) == len(meter._open) == 1000
    assert "r1499" in meter._ended


def test_without_counts_the_source_is_none() -> None:
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
