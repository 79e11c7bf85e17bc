"""The usage of Anthropic's own bytes: documents and streams, whatever the chunks."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from proxy.usage.meter import UsageMeter
from proxy.usage.reading import Reading

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "model": "claude-x",
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 100,
            "output_tokens": 1,
        },
    },
}
TEXT = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": '{"usage":{"output_tokens":999}}'},
}


def delta(stop: str | None = "end_turn", **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": usage}


def stream(*events: dict[str, Any]) -> bytes:
    return "".join(
        f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events
    ).encode()


def read(pieces: Iterable[bytes], content_type: str, *, complete: bool = True) -> Reading:
    meter = UsageMeter(content_type)
    for piece in pieces:
        meter.feed(piece)
    meter.finish(complete)
    return meter.reading


def counts(reading: Reading) -> dict[str, Any]:
    assert reading.usage is not None
    return {"source": reading.source, **reading.usage.as_metadata()}


@pytest.mark.parametrize("step", [1, 2, 7, 64, 10_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream(step: int, end: bytes) -> None:
    details = {"thinking_tokens": 30}
    text = stream(
        START,
        {"type": "ping"},
        TEXT,
        delta(None, output_tokens=12),
        delta(output_tokens=50, output_tokens_details=details),
        {"type": "message_stop"},
    ).replace(b"\n", end)
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    assert counts(read(pieces, "text/event-stream")) == {
        "source": "reported",
        "model": "claude-x",
        "response_id": "msg_1",
        "prompt_tokens": 123,
        "completion_tokens": 50,
        "total_tokens": 173,
        "cached_tokens": 100,
        "reasoning_tokens": 30,
        "cache_write_tokens": 20,
    }


@pytest.mark.parametrize("step", [1, 10_000])
def test_each_field_of_a_delta_replaces_that_of_the_start(step: int) -> None:
    first = {**START, "message": {**START["message"], "usage": {"input_tokens": 3}}}  # type: ignore[dict-item]
    last = delta(
        input_tokens=None,
        cache_creation_input_tokens=5,
        cache_read_input_tokens=7,
        output_tokens=9,
    )
    text = stream(first, TEXT, last, {"type": "message_stop"})
    found = counts(
        read([text[at : at + step] for at in range(0, len(text), step)], "text/event-stream")
    )
    assert found["prompt_tokens"] == 15
    assert (found["cached_tokens"], found["cache_write_tokens"]) == (7, 5)
    assert (found["completion_tokens"], found["total_tokens"]) == (9, 24)


def test_a_stream_that_is_cut_is_partial() -> None:
    found = counts(read([stream(START, TEXT)], "text/event-stream", complete=False))
    assert (found["source"], found["prompt_tokens"], found["completion_tokens"]) == (
        "partial",
        123,
        1,
    )


@pytest.mark.parametrize("step", [1, 10_000])
def test_a_document(step: int) -> None:
    message = {
        "id": "msg_1",
        "type": "message",
        "model": "claude-x",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 20,
            "cache_read_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 50,
            "output_tokens_details": {"thinking_tokens": 30},
            "service_tier": "standard",
        },
    }
    text = json.dumps(message).encode()
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    assert counts(read(pieces, "application/json")) == {
        "source": "reported",
        "model": "claude-x",
        "response_id": "msg_1",
        "prompt_tokens": 123,
        "completion_tokens": 50,
        "total_tokens": 173,
        "cached_tokens": 100,
        "reasoning_tokens": 30,
        "cache_write_tokens": 20,
        "service_tier": "standard",
    }


def test_counting_tokens_uses_none() -> None:
    assert read([b'{"input_tokens":14}'], "application/json").source == "none"
