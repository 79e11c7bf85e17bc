"""A long history with images and tools: other connections are served while it is translated."""

import base64
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from proxy.core.errors import ClientError
from proxy.providers.anthropic import data_url, translated
from proxy.providers.anthropic.request import TranslationOptions, messages_request
from proxy.usage.json_text import encoded_in_turns
from tests.support.loop_probe import LoopProbe, longest_steps
from tests.support.provider_dialects import call, sent, target

CLAUDE = target("anthropic", "https://h/", "claude-x")
MIB = 1024 * 1024


def history(size: int, image: int) -> tuple[str, int]:
    """A chat of about `size` bytes, its images of `image`, and how many turns Anthropic sees."""
    url = "data:image/png;base64," + "iVBORw0K" * (image // 8)
    turns: list[dict[str, Any]] = []
    for number in range(max(1, size // (image + 4096))):
        name = f"call_{number}"
        function = {"name": "f", "arguments": json.dumps({"x": "word " * 400})}
        turns += [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]},
            {
                "role": "assistant",
                "tool_calls": [{"id": name, "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": name, "content": "result " * 300},
        ]
    # A result and the user's turn behind it become one.
    return json.dumps({"model": "m", "messages": turns}), 1 + 2 * (len(turns) // 3)


@pytest.mark.parametrize("image", [4096, 2 * MIB])
def test_others_are_served_while_16_mib_are_translated(image: int) -> None:
    body, turns = history(16 * MIB, image)
    with LoopProbe() as other:
        before = other.served
        prepared = call(CLAUDE, body=body)
        # Many times more often than a body is looked through, decoded and written.
        assert other.served - before >= 10
    made = json.loads(sent(prepared))
    assert len(made["messages"]) == turns
    assert made["messages"][0]["content"][0]["source"]["data"].startswith("iVBORw0K")


@pytest.mark.parametrize(("size", "on_a_thread"), [(MIB, 0), (4 * MIB, 1)])
def test_a_large_body_is_joined_on_a_thread(
    size: int, on_a_thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[int] = []
    join = translated.joined

    def counted(pieces: list[bytes]) -> bytes:
        joined.append(len(pieces))
        return join(pieces)

    monkeypatch.setattr(translated, "joined", counted)
    body, turns = history(size, MIB // 4)
    assert len(json.loads(sent(call(CLAUDE, body=body)))["messages"]) == turns
    assert len(joined) == on_a_thread


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": role, "content": content}]}


def calling(arguments: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    made = said(None, "assistant")
    made["messages"][1]["tool_calls"] = [{"id": "a", "type": "function", "function": function}]
    return made


def shown(url: str) -> dict[str, Any]:
    return said([{"type": "image_url", "image_url": {"url": url}}])


def filed(data: str) -> dict[str, Any]:
    return said([{"type": "file", "file": {"file_data": data}}])


SIZE = 4 * MIB
#: Chats of some MiB, most of them in one string.
SHAPES: dict[str, Callable[[], dict[str, Any]]] = {
    "text": lambda: said("word " * (SIZE // 5)),
    "escapes": lambda: said('li"ne\n' * (SIZE // 8)),
    "letters of two bytes": lambda: said("слово " * (SIZE // 11)),
    "emoji": lambda: said("😀" * (SIZE // 12)),
    "blanks before a word": lambda: said(" " * SIZE + "x"),
    "many parts": lambda: said([{"type": "text", "text": "w" * 60_000}] * (SIZE // 60_000)),
    "small parts": lambda: said([{"type": "text", "text": "word"}] * (SIZE // 40)),
    "image": lambda: shown("data:image/png;base64," + "iVBORw0K" * (SIZE // 8)),
    "image in lines": lambda: shown("data:image/png;base64," + "iVBORw0K\n" * (SIZE // 10)),
    "image with escapes": lambda: shown("data:image/png;base64," + "iVB%2BRw0" * (SIZE // 9)),
    "pdf": lambda: filed("JVBERi0x" * (SIZE // 8)),
    "file of text": lambda: filed("data:text/plain;base64," + "d29y" * (SIZE // 4)),
    "file without base64": lambda: filed("data:text/plain,word" + "%20" * (SIZE // 3)),
    "one argument": lambda: calling(json.dumps({"x": "word " * (SIZE // 5)})),
    "many arguments": lambda: calling(json.dumps({"x": ["word"] * (SIZE // 8)})),
    "result": lambda: {
        "messages": [
            *calling("{}")["messages"],
            {"role": "tool", "tool_call_id": "a", "content": "word " * (SIZE // 5)},
        ]
    },
    "thinking": lambda: {
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "thinking_blocks": [
                    {"type": "thinking", "thinking": "word " * (SIZE // 5), "signature": "s"}
                ],
            },
        ]
    },
    "tool": lambda: {
        **said("x"),
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "d" * SIZE}},
        ],
    },
    "schema": lambda: {
        **said("x"),
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "schema": {
                    "type": "object",
                    "properties": {
                        f"p{number}": {"type": "string", "description": "d" * 1000}
                        for number in range(SIZE // 1100)
                    },
                }
            },
        },
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_step_is_long(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what one call of a function that holds the event loop reads or makes."""
    chat = {"model": "m", **SHAPES[shape]()}
    text = json.dumps(chat, ensure_ascii="letters" not in shape)
    assert len(text) > SIZE / 2
    steps = longest_steps(
        monkeypatch,
        (orjson, "loads"),
        (orjson, "dumps"),
        (json, "loads"),
        (base64, "b64decode"),
        (base64, "b64encode"),
        (data_url, "unquote_to_bytes"),
    )
    prepared = call(CLAUDE, body=text)
    assert max(steps["loads"], steps.get("b64decode", 0), steps.get("b64encode", 0)) <= 128 * 1024
    assert steps.get("unquote_to_bytes", 0) <= 128 * 1024
    assert steps["dumps"] <= MIB
    monkeypatch.undo()
    assert json.loads(sent(prepared)) == at_once(chat)


def at_once(chat: dict[str, Any]) -> Any:
    """The same by the plain functions: nothing is cut, nothing stays text."""
    options = TranslationOptions(model="claude-x")
    return json.loads(b"".join(encoded_in_turns(messages_request(chat, options)[0])))


@pytest.mark.parametrize("shape", ["text", "image with escapes", "many arguments", "schema"])
def test_others_are_served_meanwhile(shape: str) -> None:
    text = json.dumps({"model": "m", **SHAPES[shape]()})
    with LoopProbe() as other:
        before = other.served
        call(CLAUDE, body=text)
        assert other.served - before >= 3


def test_nothing_but_blanks() -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": " \n" * MIB}]}
    with pytest.raises(ClientError, match="not empty"):
        call(CLAUDE, body=json.dumps(chat))


@pytest.mark.parametrize(
    ("chat", "param"),
    [
        ({**said("x"), "stop": ["x"] * 1001}, "stop"),
        (shown("https://h/" + "x" * 100_000), "messages[1].content[0].image_url.url"),
        (shown("data:image/png" + "x" * 100_000), "messages[1].content[0].image_url.url"),
        (calling("[" + "1," * 50_000 + "1]"), "messages[1].tool_calls[0].function.arguments"),
        (
            calling('{"x":' * 2000 + "1" + "}" * 2000),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            filed("data:text/plain;base64," + "d29y" * 50_000 + "*"),
            "messages[1].content[0].file.file_data",
        ),
    ],
)
def test_what_is_refused(chat: dict[str, Any], param: str) -> None:
    with pytest.raises(ClientError) as caught:
        call(CLAUDE, body=json.dumps({"model": "m", **chat}))
    assert caught.value.param == param


@pytest.mark.parametrize("schema", [
    {"type": "string", "default": "x" * 100_000},
    {"enum": ["x"] * 10_001},
    {"type": ["string"] * 8},
])  # fmt: skip
def test_schemas_that_are_refused(schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(ClientError) as caught:
        call(CLAUDE, body=json.dumps({"model": "m", **said("x"), "response_format": wanted}))
    assert caught.value.param == "response_format.json_schema.schema"


def test_what_nests_too_deep_to_be_written() -> None:
    parameters = '{"a":' * 900 + "1" + "}" * 900
    tools = f'[{{"type":"function","function":{{"name":"f","parameters":{parameters}}}}}]'
    body = f'{{"model":"m","messages":[{{"role":"user","content":"x"}}],"tools":{tools}}}'
    with pytest.raises(ClientError, match="nests too deep"):
        call(CLAUDE, body=body)
