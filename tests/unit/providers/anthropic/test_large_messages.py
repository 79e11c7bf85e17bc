"""A long history of Anthropic's as a chat: other connections are served while it is translated."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from proxy.core.errors import ClientError
from proxy.providers.anthropic.from_messages import chat_request
from proxy.usage.json_text import encoded_in_turns
from tests.support.loop_probe import LoopProbe, longest_steps
from tests.support.provider_dialects import call, sent, target

GPT = dataclasses.replace(
    target("openai", "https://h/", "gpt", serve_messages="translate"), from_messages=True
)
MIB = 1024 * 1024
SIZE = 4 * MIB
PATH = "/v1/messages"


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": role, "content": content}]}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def used(given: dict[str, Any]) -> dict[str, Any]:
    return said([{"type": "tool_use", "id": "t", "name": "f", "input": given}], "assistant")


def result(content: Any) -> dict[str, Any]:
    return said([{"type": "tool_result", "tool_use_id": "t", "content": content}])


IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K" * (SIZE // 8)},
}
#: Requests of some MiB, most of them in one string.
SHAPES: dict[str, Callable[[], dict[str, Any]]] = {
    "text": lambda: said("word " * (SIZE // 5)),
    "escapes": lambda: said('li"ne\n' * (SIZE // 8)),
    "letters of two bytes": lambda: said("слово " * (SIZE // 11)),
    "two texts": lambda: said([text("word " * (SIZE // 5)), text("short")]),
    "many blocks": lambda: said([text("w" * 60_000)] * (SIZE // 60_000)),
    "small blocks": lambda: said([text("word")] * (SIZE // 40)),
    "blocks of the assistant": lambda: said([text("w" * 60_000)] * 60, "assistant"),
    "image": lambda: said([IMAGE]),
    "pdf": lambda: said([{**IMAGE, "type": "document"}]),
    "system": lambda: {**said("x"), "system": "word " * (SIZE // 5)},
    "one input": lambda: used({"x": "wörd " * (SIZE // 5)}),
    "many inputs": lambda: used({"x": ["wörd"] * (SIZE // 8)}),
    "result": lambda: result("word " * (SIZE // 5)),
    "result in blocks": lambda: result([text("word " * (SIZE // 10))] * 2),
    "tool": lambda: {
        **said("x"),
        "tools": [{"name": "f", "description": "d" * SIZE, "input_schema": {}}],
    },
    "schema": lambda: {
        **said("x"),
        "tools": [
            {
                "name": "f",
                "input_schema": {
                    "properties": {f"p{number}": {"x": "d" * 1000} for number in range(4000)}
                },
            }
        ],
    },
    "history": lambda: {
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "b" * 99}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
        ]
        * (SIZE // 300)
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_step_is_long(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what one call of a function that holds the event loop reads or makes."""
    request = {"model": "m", **SHAPES[shape]()}
    body = json.dumps(request, ensure_ascii="letters" not in shape)
    assert len(body) > SIZE / 2
    steps = longest_steps(
        monkeypatch, (orjson, "loads"), (orjson, "dumps"), (json, "loads"), (json, "dumps")
    )
    prepared = call(GPT, PATH, body)
    assert steps["loads"] <= 128 * 1024
    assert steps["dumps"] <= MIB
    monkeypatch.undo()
    # The same of a request that is decoded at once.
    wanted = b"".join(encoded_in_turns(chat_request(request, "gpt")[0]))
    assert read(sent(prepared)) == read(wanted)


def read(chat: str | bytes) -> Any:
    """Arguments too: a long string in them stays as it was written."""
    made = json.loads(chat)
    for message in made["messages"]:
        for tool_call in message.get("tool_calls", ()):
            tool_call["function"]["arguments"] = json.loads(tool_call["function"]["arguments"])
    return made


@pytest.mark.parametrize("shape", ["text", "image", "many inputs", "small blocks", "history"])
def test_others_are_served_meanwhile(shape: str) -> None:
    body = json.dumps({"model": "m", **SHAPES[shape]()})
    with LoopProbe() as other:
        before = other.served
        call(GPT, PATH, body)
        assert other.served - before >= 3


@pytest.mark.parametrize(
    ("request_body", "param"),
    [
        ({**said("x"), "stop_sequences": ["x"] * 1001}, "stop_sequences"),
        (
            said([{"type": "image", "source": {"type": "url", "url": "x" * 100_000}}]),
            "messages[1].content[0].source.url",
        ),
        ({**said("x"), "metadata": {"user_id": "x" * 100_000}}, "metadata.user_id"),
    ],
)
def test_what_is_refused(request_body: dict[str, Any], param: str) -> None:
    with pytest.raises(ClientError) as caught:
        call(GPT, PATH, json.dumps({"model": "m", **request_body}))
    assert caught.value.param == param


def test_half_a_surrogate_pair_is_refused() -> None:
    for request in (said("\ud800"), used({"a": "\ud800"})):
        with pytest.raises(ClientError):
            call(GPT, PATH, json.dumps({"model": "m", **request}))
