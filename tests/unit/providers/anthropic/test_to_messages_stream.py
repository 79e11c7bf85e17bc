"""Chunks of a chat as events: golden files, any cut of the bytes, and what the SDK reads."""

import json
from typing import Any

import httpx2
import pytest
from anthropic import Anthropic, APIStatusError
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from proxy.core.errors import ResponseBroken
from proxy.providers.anthropic import to_messages_stream
from proxy.providers.anthropic.to_messages import message_of
from proxy.providers.anthropic.to_messages_stream import MessagesStream
from tests.unit.providers.anthropic.golden import cases

CASES = cases("to_messages_streams")
COMPLETE = [name for name, case in CASES.items() if case["complete"]]
LONG = "thoughts-between-text"
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def raw(case: dict[str, Any], end: str = "\n") -> bytes:
    frames = [json.dumps(chunk, ensure_ascii=False) for chunk in case["chunks"]]
    frames += ["[DONE]"] if case["done"] else []
    return "".join(f"data: {frame}{end}{end}" for frame in frames).encode()


def run(pieces: list[bytes]) -> tuple[str, bool]:
    """The output, and whether the stream came to its end."""
    made = MessagesStream("asked", "spare")
    out = b""
    assert made.at_event_boundary
    try:
        for piece in pieces:
            out += made.feed(piece)
        return (out + made.end()).decode(), True
    except ResponseBroken:
        return out.decode(), False


def events(output: str) -> list[Any]:
    """The data of the events. Each has its type as a name: the SDK skips one without."""
    assert not output or output.endswith("\n\n")
    found = []
    for frame in output.split("\n\n")[:-1]:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    output, complete = run(_chunks(case))
    assert events(output) == case["events"]
    assert complete is case["complete"]
    for event in case["events"]:
        if event["type"] != "error":
            _EVENT.validate_python(event, strict=True)


def _chunks(case: dict[str, Any]) -> list[bytes]:
    return [part + b"\n\n" for part in raw(case).split(b"\n\n")[:-1]]


@settings(deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_cut_gives_the_same(name: str, data: st.DataObject, end: str) -> None:
    case = CASES[name]
    text = raw(case, end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert run(pieces) == run(_chunks(case))


def test_byte_by_byte() -> None:
    text = raw(CASES[LONG], "\r\n")
    assert run([bytes([byte]) for byte in text]) == run([raw(CASES[LONG])])


def test_each_event_goes_out_when_its_chunk_is_whole() -> None:
    made = MessagesStream("asked", "spare")
    wanted = [True, True, True, False, False, True]  # the finish reason and the usage wait
    for text, out in zip(_chunks(CASES["text"]), wanted, strict=True):
        assert made.feed(text[:-1]) == b""
        assert bool(made.feed(text[-1:])) is out, text


@pytest.mark.parametrize("name", COMPLETE)
def test_blocks_are_never_open_together(name: str) -> None:
    is_open = None
    count = 0
    for event in CASES[name]["events"]:
        if event["type"] == "content_block_start":
            assert is_open is None
            assert event["index"] == count
            is_open, count = count, count + 1
        elif event["type"] == "content_block_delta":
            assert event["index"] == is_open
        elif event["type"] == "content_block_stop":
            assert event["index"] == is_open
            is_open = None
    assert is_open is None


def sdk_of(output: str) -> Anthropic:
    """The SDK, whose next response is a stream."""
    answer = httpx2.Response(
        200, headers={"content-type": "text/event-stream"}, content=output.encode()
    )
    transport = httpx2.MockTransport(lambda _: answer)
    return Anthropic(
        api_key="k", base_url="http://h", http_client=httpx2.Client(transport=transport)
    )


@pytest.mark.parametrize("name", COMPLETE)
def test_the_sdk_collects_the_message(name: str) -> None:
    case = CASES[name]
    output, _ = run([raw(case)])
    with sdk_of(output).messages.stream(
        model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}]
    ) as stream:
        message = stream.get_final_message()
    blocks: list[dict[str, Any]] = []
    for event in case["events"]:
        if event["type"] == "content_block_start":
            blocks.append({"type": event["content_block"]["type"], "said": ""})
        elif event["type"] == "content_block_delta":
            _, said = event["delta"].values()
            blocks[-1]["said"] += said
    assert [block.type for block in message.content] == [block["type"] for block in blocks]
    for block, wanted in zip(message.content, blocks, strict=True):
        if block.type == "tool_use":
            assert block.input == json.loads(wanted["said"] or "{}")
        else:
            assert getattr(block, block.type) == wanted["said"]
    (delta,) = [event for event in case["events"] if event["type"] == "message_delta"]
    assert message.stop_reason == delta["delta"]["stop_reason"]
    counted = message.usage.model_dump()
    assert {name: counted[name] for name in delta["usage"]} == delta["usage"]


_WORDS = st.text(min_size=1, max_size=6)
_CALLS = st.lists(st.tuples(_WORDS, _WORDS, st.dictionaries(_WORDS, _WORDS)), max_size=3)


@settings(deadline=None)
@given(st.lists(_WORDS, max_size=3), st.lists(_WORDS, max_size=4), _CALLS, st.data())
def test_a_stream_is_what_the_whole_completion_is(
    thoughts: list[str], words: list[str], calls: Any, data: st.DataObject
) -> None:
    made = [
        {
            "id": f"call_{number}_{call_id}",
            "function": {"name": name, "arguments": json.dumps(given)},
        }
        for number, (call_id, name, given) in enumerate(calls)
    ]
    message = {
        "reasoning_content": "".join(thoughts),
        "content": "".join(words),
        "tool_calls": made,
    }
    whole = message_of(
        {"id": "c", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]},
        "asked",
        "spare",
    )
    deltas: list[dict[str, Any]] = [{"reasoning_content": thought} for thought in thoughts]
    deltas += [{"content": word} for word in words]
    for number, call in enumerate(made):
        text = call["function"]["arguments"]
        cut = data.draw(st.integers(0, len(text)))
        first = {**call["function"], "arguments": text[:cut]}
        deltas.append({"tool_calls": [{"index": number, **call, "function": first}]})
        rest = {"index": number, "function": {"arguments": text[cut:]}}
        deltas.append({"tool_calls": [rest]})
    chunks = [
        {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in [{"role": "assistant", "content": ""}, *deltas]
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    output, complete = run([raw({"chunks": chunks, "done": True})])
    assert complete
    snapshot = None
    buffers: dict[int, bytes] = {}
    for event in events(output):
        read = _EVENT.validate_python(event, strict=True)
        snapshot = accumulate_event(event=read, current_snapshot=snapshot, json_bufs=buffers)
    assert snapshot is not None
    collected = snapshot.model_dump(include={"id", "model", "stop_reason", "content"})
    for block in collected["content"]:
        for extra in set(block) - {"type", "text", "thinking", "signature", "id", "name", "input"}:
            del block[extra]
    for block in whole["content"]:
        block.pop("citations", None)
    assert collected == {name: whole[name] for name in collected}


def test_the_sdk_raises_an_error_of_the_stream() -> None:
    output, _ = run([raw(CASES["error-behind-text"])])
    with (
        pytest.raises(APIStatusError, match="Too much"),
        sdk_of(output).messages.stream(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}]
        ) as stream,
    ):
        stream.until_done()


@pytest.mark.parametrize("bad", [b"data: {\n\n", b"data: [DONE]\n\n"])
def test_what_is_no_chunk_breaks_the_response(bad: bytes) -> None:
    with pytest.raises(ResponseBroken):
        MessagesStream("m", "s").feed(bad)


@pytest.mark.parametrize("data", ["1", "[]", "null", ""])
def test_a_chunk_without_meaning_is_skipped(data: str) -> None:
    assert MessagesStream("m", "s").feed(f": c\n\ndata: {data}\n\n".encode()) == b""


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": 1, "usage": 1},
        {"choices": [1]},
        {"choices": [{"delta": 1}]},
        {"choices": [{"delta": {"content": 1, "tool_calls": 1, "reasoning": []}}]},
        {"choices": [{"delta": {"tool_calls": [1]}}]},
    ],
)
def test_chunks_of_another_shape_start_the_message(chunk: dict[str, Any]) -> None:
    out = MessagesStream("m", "s").feed(f"data: {json.dumps(chunk)}\n\n".encode())
    assert [event["type"] for event in events(out.decode())] == ["message_start"]


def test_a_chunk_that_is_too_large_breaks_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_messages_stream, "MAX_EVENT_BYTES", 100)
    chunk = {"choices": [{"delta": {"content": "x" * 200}}]}
    with pytest.raises(ResponseBroken, match="too large"):
        MessagesStream("m", "s").feed(f"data: {json.dumps(chunk)}\n\n".encode())


def test_nothing_follows_the_end() -> None:
    made = MessagesStream("m", "s")
    made.feed(raw(CASES["text"]))
    assert made.feed(raw(CASES["text"])) == b""
    assert made.end() == b""
