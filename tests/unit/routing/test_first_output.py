"""Which events of a stream are output, and when a held stream is committed."""

import zlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.first_output import MAX_HELD_BYTES, MAX_HELD_EVENTS, FirstOutput, Kind, kind_of
from proxy.usage.sse import SseEvent


def chat(**choice: object) -> dict[str, object]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}


STARTUP: list[tuple[str, object]] = [
    ("", chat(delta={"role": "assistant", "content": ""}, finish_reason=None)),
    ("", chat(delta={})),
    ("", {"choices": [], "prompt_filter_results": [{}]}),
    ("", {"choices": [{"text": "", "finish_reason": None}]}),
    ("", chat(content_filter_offsets={})),
    ("response.created", {"type": "response.created", "response": {"error": None}}),
    ("", {"type": "response.in_progress", "response": {}}),
    ("", {"type": "response.queued", "response": {}}),
    ("", {"type": "response.output_item.added", "item": {"type": "message", "content": []}}),
    ("", {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}}),
    ("message_start", {"type": "message_start", "message": {"content": []}}),
    ("ping", {"type": "ping"}),
    ("", {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}),
]
OUTPUT: list[tuple[str, object]] = [
    ("", chat(delta={"content": "Hi"})),
    ("", chat(delta={"tool_calls": [{"index": 0, "function": {"name": "f"}}]})),
    ("", chat(delta={"reasoning_content": "hm"})),
    ("", chat(delta={"refusal": "no"})),
    ("", chat(delta={}, finish_reason="stop")),
    ("", {"choices": [{"text": "Hi"}]}),
    ("", {"type": "response.output_text.delta", "delta": "Hi"}),
    ("", {"type": "response.completed", "response": {}}),
    ("", {"type": "content_block_delta", "delta": {"text": "Hi"}}),
    ("", {"type": "content_block_start", "content_block": {"type": "text", "text": "Hi"}}),
    ("", {"usage": {"total_tokens": 1}}),
    ("", [1, 2]),
]
ERRORS: list[tuple[str, object]] = [
    ("", {"error": {"message": "overloaded", "code": 529}}),
    ("", {"error": "overloaded"}),
    ("error", {"type": "error", "error": {"type": "overloaded_error"}}),
    ("error", {"type": "error", "code": "server_error", "message": "x"}),
    ("", {"type": "response.failed", "response": {"error": {"code": "server_error"}}}),
    ("error", {"message": "x"}),
]


def event(name: str, data: object) -> SseEvent:
    return SseEvent(name, orjson.dumps(data))


@pytest.mark.parametrize(("name", "data"), STARTUP)
def test_start_up_is_no_output(name: str, data: object) -> None:
    assert kind_of(event(name, data)) is Kind.STARTUP


@pytest.mark.parametrize(("name", "data"), OUTPUT)
def test_output_commits(name: str, data: object) -> None:
    assert kind_of(event(name, data)) is Kind.OUTPUT


@pytest.mark.parametrize(("name", "data"), ERRORS)
def test_errors_are_seen_in_every_dialect(name: str, data: object) -> None:
    assert kind_of(event(name, data)) is Kind.ERROR


def test_what_cannot_be_read_is_for_the_client() -> None:
    assert kind_of(SseEvent("", b"[DONE]")) is Kind.OUTPUT
    assert kind_of(SseEvent("", b"")) is Kind.STARTUP


def stream(*events: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in events)


def test_an_error_after_start_up_is_found_and_kept() -> None:
    output = FirstOutput()
    output.feed(b": comment\n\n" + stream(STARTUP[0][1], STARTUP[2][1]))
    assert not output.decided
    output.feed(stream(ERRORS[0][1]))
    assert output.error == orjson.dumps(ERRORS[0][1])
    assert not output.committed


def test_an_error_after_output_is_the_clients() -> None:
    output = FirstOutput()
    output.feed(stream(OUTPUT[0][1], ERRORS[0][1]))
    assert output.committed
    assert output.error is None


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_streams_are_read(encoding: str) -> None:
    wbits = 31 if encoding == "gzip" else 15
    packer = zlib.compressobj(wbits=wbits)
    output = FirstOutput(encoding)
    output.feed(packer.compress(stream(STARTUP[0][1])) + packer.flush(zlib.Z_SYNC_FLUSH))
    assert not output.decided
    output.feed(packer.compress(stream(ERRORS[0][1])) + packer.flush(zlib.Z_SYNC_FLUSH))
    assert output.error is not None


def test_another_encoding_and_broken_compression_commit() -> None:
    assert FirstOutput("br").committed
    broken = FirstOutput("gzip")
    broken.feed(b"no gzip at all")
    assert broken.committed


def test_the_bounds_commit() -> None:
    many = FirstOutput()
    many.feed(stream(*[STARTUP[0][1]] * (MAX_HELD_EVENTS - 1)))
    assert not many.decided
    many.feed(stream(STARTUP[0][1]))
    assert many.committed
    large = FirstOutput()
    large.feed(b": " + b"x" * MAX_HELD_BYTES)
    assert large.committed


@given(st.lists(st.integers(1, 40), max_size=20))
def test_chunk_borders_do_not_matter(cuts: list[int]) -> None:
    text = stream(STARTUP[0][1], STARTUP[2][1], ERRORS[0][1])
    output = FirstOutput()
    at = 0
    for size in cuts:
        output.feed(text[at : at + size])
        at += size
    output.feed(text[at:])
    assert output.error is not None
