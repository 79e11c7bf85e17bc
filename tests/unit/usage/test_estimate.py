"""The bytes of text in requests and responses (`proxy/usage/estimate.py`)."""

import base64
import gzip
import random
from typing import Any

import orjson
import pytest

from proxy.usage import estimate
from proxy.usage.estimate import (
    ResponseText,
    event_bytes,
    prompt_bytes,
    response_bytes,
    text_bytes,
    tokens_of,
)
from tests.support.sse_streams import chat_chunk, sse

PICTURE = base64.b64encode(bytes(range(256)) * 40).decode()


def size(*chunks: bytes, content_type: str = "", encoding: str = "") -> int:
    text = ResponseText(content_type, encoding)
    for chunk in chunks:
        text.feed(chunk)
    text.finish(complete=True)
    return text.size()


def test_four_bytes_a_token_rounded_up() -> None:
    assert [tokens_of(count) for count in (0, 1, 4, 5)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("parameters", "counted"),
    [
        ({}, 0),
        ({"messages": [{"role": "user", "content": "12345678"}], "model": "gpt-4"}, 8),
        ({"messages": [{"role": "user", "content": "☃"}]}, 3),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "1234"}]}]}, 4),
        ({"prompt": ["1234", "56"]}, 6),
        ({"input": [1, 2, 3]}, 12),
        ({"input": "1234", "instructions": "12", "user": "nobody"}, 6),
        ({"system": "1234", "messages": [{"role": "x" * 65, "content": ""}]}, 69),
        ({"metadata": {"content": "1234"}}, 0),
    ],
)
def test_what_a_model_reads(parameters: dict[str, Any], counted: int) -> None:
    assert prompt_bytes(parameters, 1000) == counted


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        {"type": "input_audio", "input_audio": {"data": PICTURE}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PICTURE}"}},
        {"type": "image", "source": {"type": "base64", "data": PICTURE}},
    ],
)
def test_files_are_no_text(part: dict[str, Any]) -> None:
    assert text_bytes([part]) == 0


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "data:image/png;base64,not base64 at all"},
        {"type": "document", "source": {"type": "text", "data": "it is text, and is read"}},
        {"type": "text", "text": "data:text/plain;base64," + "QUJD" * 2000 + " and then text"},
    ],
)
def test_text_that_only_looks_like_a_file_counts(part: dict[str, Any]) -> None:
    assert text_bytes([part]) >= 23


def test_of_too_many_values_the_bytes_count() -> None:
    numbers = list(range(estimate._MAX_VALUES + 1))
    assert prompt_bytes({"input": numbers}, 12_345) == 12_345


@pytest.mark.parametrize(
    ("response", "counted"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "1234"}}] * 2}, 8),
        ({"choices": [{"text": "1234", "finish_reason": "stop"}]}, 4),
        ({"output": [{"type": "message", "content": [{"text": "1234"}]}]}, 4),
        ({"content": [{"type": "text", "text": "1234"}], "role": "assistant"}, 4),
        ({"data": [{"embedding": [0.25] * 10}]}, 0),
        ([], 0),
    ],
)
def test_a_whole_response(response: Any, counted: int) -> None:
    assert response_bytes(response) == counted
    body = orjson.dumps(response, option=orjson.OPT_INDENT_2)
    assert size(body, content_type="application/json") == counted
    assert size(gzip.compress(body), encoding="gzip") == counted
    assert size(*[body[at : at + 1] for at in range(len(body))]) == counted


@pytest.mark.parametrize(
    ("event", "counted"),
    [
        ({"choices": [{"delta": {"content": "1234"}, "logprobs": {"content": ["more"]}}]}, 4),
        ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}, 2),
        ({"type": "response.output_text.delta", "delta": "1234"}, 4),
        ({"type": "response.output_text.done", "text": "1234"}, 0),
        ({"type": "response.completed", "response": {"output": [{"text": "1234"}]}}, 0),
        ({"type": "response.audio.delta", "delta": PICTURE}, 0),
        ({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "1234"}}, 4),
        ({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, 0),
        ("x", 0),
    ],
)
def test_an_event_of_a_stream(event: Any, counted: int) -> None:
    assert event_bytes(event) == counted


@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "application/json"])
def test_a_stream_is_the_sum_of_its_events_however_it_is_cut(content_type: str) -> None:
    body = sse(chat_chunk(b"One")) + sse(chat_chunk(b"four")) + sse(b"[DONE]")
    chance = random.Random(7)
    for _ in range(50):
        cuts = sorted(chance.sample(range(len(body)), 5))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        assert size(*pieces, content_type=content_type) == 7
    half = sse(chat_chunk(b"One")).rstrip()
    assert size(half, content_type=content_type) == 3, "an event without its blank line"


@pytest.mark.parametrize(
    ("chunk", "encoding"), [(b"\x1f\x8b" + b"x" * 99, "gzip"), (b"x" * 99, "br")]
)
def test_what_cannot_be_read_adds_nothing(chunk: bytes, encoding: str) -> None:
    assert size(chunk, encoding=encoding) == 0


def test_a_body_that_was_cut_or_is_huge_is_all_text() -> None:
    assert size(b'{"choices":[{"text":"12') == 23
    huge = orjson.dumps({"choices": [{"text": "x" * estimate._MAX_WHOLE}]})
    text = ResponseText("", "")
    for at in range(0, len(huge), 65536):
        text.feed(huge[at : at + 65536])
    text.finish(complete=True)
    assert text.size() == len(huge)
    assert len(text._held) <= estimate._MAX_WHOLE


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_steps_see_what_feed_sees(encoding: str) -> None:
    data = sse(chat_chunk()) * 2000
    data = gzip.compress(data) if encoding else data
    text = ResponseText("text/event-stream", encoding)
    assert sum(1 for _ in text.steps(data)) > 50
    text.finish(complete=True)
    assert text.size() == size(data, content_type="text/event-stream", encoding=encoding)


def test_steps_end_where_nothing_can_be_read() -> None:
    text = ResponseText("text/event-stream", "gzip")
    assert list(text.steps(b"no gzip at all")) == []
    assert list(text.steps(b"more of it")) == []
