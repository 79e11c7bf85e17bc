"""A stream of events as chunks: golden files, any cut of the bytes, and what is no good stream."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk

from proxy.core.errors import ResponseBroken
from proxy.providers.anthropic import stream
from proxy.providers.anthropic.stream import ChatStream
from tests.unit.providers.anthropic.golden import cases, raw

CASES = cases("streams")
LONG = "thinking-between-text"


def run(pieces: list[bytes], *, include_usage: bool = False) -> tuple[str, bool]:
    """The output, and whether the stream came to its end."""
    made = ChatStream(7, include_usage=include_usage)
    out = b"".join(map(made.feed, pieces))
    assert made.at_event_boundary
    try:
        return (out + made.end()).decode(), True
    except ResponseBroken:
        return out.decode(), False


def frames(output: str) -> list[Any]:
    assert not output or output.endswith("\n\n")
    return [
        json.loads(frame[6:]) if frame.startswith("data: {") else frame
        for frame in output.split("\n\n")[:-1]
    ]


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = CASES[name]
    output, complete = run([raw(case["events"])], include_usage=case["include_usage"])
    assert frames(output) == case["output"]
    assert complete is case["complete"]
    for frame in case["output"]:
        if isinstance(frame, dict) and "choices" in frame:
            ChatCompletionChunk.model_validate(frame)


@settings(deadline=None)
@given(st.sampled_from(sorted(CASES)), st.data(), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_cut_gives_the_same(name: str, data: st.DataObject, end: str) -> None:
    case = CASES[name]
    text = raw(case["events"], end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    wanted = run([raw(case["events"])], include_usage=case["include_usage"])
    assert run(pieces, include_usage=case["include_usage"]) == wanted


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("usage", [True, False])
def test_event_by_event_gives_the_same_bytes(name: str, usage: bool) -> None:
    """A chunk that is one event is read without the decoder."""
    events = CASES[name]["events"]
    output, complete = run([raw([event]) for event in events], include_usage=usage)
    assert (output, complete) == run([raw(events)], include_usage=usage)
    for frame in output.split("\n\n")[:-1]:
        if frame.startswith("data: {"):  # as one encoder writes it, and no other
            assert orjson.dumps(orjson.loads(frame[6:])).decode() == frame[6:]


def test_chunks_of_text_have_the_members_of_all_others() -> None:
    for usage in (True, False):
        output, _ = run([raw(CASES["text"]["events"])], include_usage=usage)
        role, content, *_ = [chunk for chunk in frames(output) if isinstance(chunk, dict)]
        assert list(content) == list(role)
        assert list(content["choices"][0]) == list(role["choices"][0])
        assert (content["id"], content["model"]) == (role["id"], role["model"])


@pytest.mark.parametrize("before", [b"event: x\n", b"data: [", b"data: 1\n", b"id"])
def test_a_chunk_behind_half_an_event_is_read_as_its_rest(before: bytes) -> None:
    start, rest = CASES["text"]["events"][:1], CASES["text"]["events"][2:3]
    made, wanted = (ChatStream(7, include_usage=False) for _ in range(2))

    def outcome(stream: ChatStream, *pieces: bytes) -> object:
        stream.feed(raw(start))
        try:
            return b"".join(map(stream.feed, pieces))
        except ResponseBroken as error:
            return str(error)

    text = raw(rest)
    assert outcome(made, before, text) == outcome(wanted, before + text)


def test_byte_by_byte() -> None:
    text = raw(CASES[LONG]["events"], "\r\n")
    assert run([bytes([byte]) for byte in text]) == run([raw(CASES[LONG]["events"])])


def test_each_chunk_goes_out_when_its_event_is_whole() -> None:
    events = CASES["text"]["events"]
    made = ChatStream(7, include_usage=False)
    for event, wanted in zip(
        events, [True, True, False, True, True, False, True, True], strict=True
    ):
        text = raw([event])
        assert made.feed(text[:-1]) == b""
        assert bool(made.feed(text[-1:])) is wanted, event


def test_frames_as_the_standard_allows_them() -> None:
    events = CASES["text"]["events"]
    text = b"\xef\xbb\xbf: hello\n\n"
    for event in events:
        lines = json.dumps(event, indent=1).split("\n")
        data = "\n".join(f"data:{line}" for line in lines)
        text += f"{data}\nid: 1\nevent: something-else\nretry: 5\n\n".encode()
    assert run([text]) == run([raw(events)])


@pytest.mark.parametrize("bad", [b"data: {\n\n", b"data: [DONE]\n\n"])
def test_an_event_that_is_no_json_breaks_the_response(bad: bytes) -> None:
    with pytest.raises(ResponseBroken):
        ChatStream(7, include_usage=False).feed(bad)


@pytest.mark.parametrize("data", ["1", "[]", "null", "{}", '{"type":1}', '{"type":"ping"}', ""])
def test_an_event_without_meaning_is_skipped(data: str) -> None:
    assert ChatStream(7, include_usage=False).feed(f"data: {data}\n\n".encode()) in (
        b"",
        b": ping\n\n",
    )


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_start"},
        {"type": "content_block_start"},
        {"type": "content_block_delta", "index": "x", "delta": {"type": "input_json_delta"}},
        {"type": "content_block_delta", "index": 9, "delta": {"type": "thinking_delta"}},
        {"type": "content_block_stop", "index": 9},
        {"type": "message_delta", "delta": None, "usage": 1},
        {"type": "error", "error": "x"},
    ],
)
def test_members_that_are_missing_are_no_defect(event: dict[str, Any]) -> None:
    run([raw([event])])


def test_an_event_beyond_any_size_breaks_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_EVENT_BYTES", 100)
    event = {"type": "content_block_delta", "usage": {}, "delta": {"text": "x" * 200}}
    with pytest.raises(ResponseBroken, match="too large"):
        ChatStream(7, include_usage=False).feed(raw([event]))
