"""Responses that are complete and say so, of each endpoint whose responses are cached."""

import json
from typing import Any, NamedTuple

from tests.support.fake_upstream import CHAT, chat_events, completion_events
from tests.support.sse_streams import STREAMS, named, sse
from tests.support.usage_samples import BODIES

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"


class Complete(NamedTuple):
    path: str
    content_type: str
    body: bytes


def dumped(document: object) -> bytes:
    return json.dumps(document).encode()


def chat(*choices: dict[str, Any], **members: Any) -> bytes:
    """A chat with these choices, or with one that has a text."""
    usual = {"index": 0, "message": {"role": "assistant", "content": "Hi"}}
    return dumped(
        {**CHAT, "choices": list(choices) or [{**usual, "finish_reason": "stop"}], **members}
    )


def choice(finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, "refusal": None, **message}
    return {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}


def call(arguments: str = '{"a": 1}', **members: Any) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **members}


def response(*output: dict[str, Any], **members: Any) -> bytes:
    """An object of the Responses API with this output, or with a message."""
    return dumped(response_of(*output, **members))


def response_of(*output: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "gpt-4.1",
        "output": list(output) or [output_message({"type": "output_text", "text": "Hi"})],
        **members,
    }


def output_message(*content: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    return {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": status,
        "content": list(content),
    }


def message(*content: dict[str, Any], stop_reason: str | None = "end_turn", **rest: Any) -> bytes:
    """A message in Anthropic's dialect with this content, or with a text."""
    return dumped(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": list(content) or [{"type": "text", "text": "Hi"}],
            "stop_reason": stop_reason,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
            **rest,
        }
    )


def events(*data: dict[str, Any]) -> bytes:
    """A stream of events that are named by their type."""
    return b"".join(named(each["type"].encode(), dumped(each)) for each in data)


def chunks(*deltas: dict[str, Any], finish: str | None = "stop", done: bool = True) -> bytes:
    """A stream of chat chunks with one choice."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    parts: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in deltas
    ]
    if finish is not None:
        last = {"index": 0, "delta": {}, "finish_reason": finish}
        parts.append({**head, "choices": [last]})
    return sse(*map(dumped, parts), *([b"[DONE]"] if done else []))


def message_events(
    *blocks: tuple[dict[str, Any], list[dict[str, Any]]], stop_reason: str | None = "end_turn"
) -> bytes:
    """Anthropic's stream of content blocks with their deltas, or of one with a text."""
    parts: list[dict[str, Any]] = [
        {"type": "message_start", "message": json.loads(message(stop_reason=None))},
        {"type": "ping"},
    ]
    for index, (block, deltas) in enumerate(blocks or [TEXT_BLOCK]):
        parts.append({"type": "content_block_start", "index": index, "content_block": block})
        parts += [{"type": "content_block_delta", "index": index, "delta": each} for each in deltas]
        parts.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": stop_reason, "stop_sequence": None}
    parts.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": 5}})
    parts.append({"type": "message_stop"})
    return events(*parts)


TEXT_BLOCK: tuple[dict[str, Any], list[dict[str, Any]]] = (
    {"type": "text", "text": ""},
    [{"type": "text_delta", "text": "Hi"}, {"type": "text_delta", "text": " you"}],
)
TOOL_BLOCK: tuple[dict[str, Any], list[dict[str, Any]]] = (
    {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}},
    [
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city": '},
        {"type": "input_json_delta", "partial_json": '"Oslo"}'},
    ],
)
THOUGHT_BLOCK: tuple[dict[str, Any], list[dict[str, Any]]] = (
    {"type": "thinking", "thinking": "", "signature": ""},
    [{"type": "thinking_delta", "thinking": "Hm"}, {"type": "signature_delta", "signature": "c"}],
)
CALL_DELTAS: list[dict[str, Any]] = [
    {"role": "assistant", "content": None},
    {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
    {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
]

_CHATS, _RESPONSES, _MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
_CUSTOM_CALL = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "no {json"}}

WHOLE: dict[str, Complete] = {
    "chat": Complete(_CHATS, JSON, dumped(CHAT)),
    "chat with calls": Complete(_CHATS, JSON, BODIES["chat"][0].strip()),
    "chat at its length": Complete(_CHATS, JSON, chat(choice("length", content="Once"))),
    "chat with two choices": Complete(
        _CHATS, JSON, chat(choice(content="a"), choice("tool_calls", tool_calls=[call(), call()]))
    ),
    "chat with a custom call": Complete(
        _CHATS, JSON, chat(choice("tool_calls", tool_calls=[_CUSTOM_CALL]))
    ),
    "chat with a function": Complete(
        _CHATS,
        JSON,
        chat(choice("function_call", function_call={"name": "f", "arguments": "{}"})),
    ),
    "chat with sound": Complete(
        _CHATS, JSON, chat(choice(audio={"id": "a", "data": "aa", "transcript": "Hi"}))
    ),
    "chat in parts": Complete(_CHATS, JSON, chat(choice(content=[{"type": "text", "text": "Hi"}]))),
    "completion": Complete("/v1/completions", JSON, BODIES["completion"][0].strip()),
    "embeddings": Complete("/v1/embeddings", JSON, BODIES["embeddings"][0]),
    "embeddings in base64": Complete(
        "/v1/embeddings", JSON, dumped({"data": [{"index": 0, "embedding": "AAAA"}]})
    ),
    "response": Complete(_RESPONSES, JSON, BODIES["response"][0]),
    "response with a call": Complete(
        _RESPONSES,
        JSON,
        response(
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "name": "f", "arguments": "{}", "status": "completed"},
        ),
    ),
    "response with a custom call": Complete(
        _RESPONSES, JSON, response({"type": "custom_tool_call", "name": "f", "input": "no {json"})
    ),
    "moderation": Complete("/v1/moderations", JSON, BODIES["moderation"][0]),
    "message": Complete(_MESSAGES, JSON, message()),
    "message with a call": Complete(
        _MESSAGES,
        JSON,
        message(
            {"type": "thinking", "thinking": "Hm", "signature": "c"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            stop_reason="tool_use",
        ),
    ),
    "models": Complete("/v1/models", JSON, dumped({"object": "list", "data": [{"id": "m"}]})),
    "model": Complete("/v1/models/org/m", JSON, dumped({"id": "org/m", "object": "model"})),
}

STREAMED: dict[str, Complete] = {
    "chat": Complete(_CHATS, EVENTS, b"".join(chat_events())),
    **{
        f"chat: {name}": Complete(_CHATS, EVENTS, STREAMS[name][0])
        for name in (
            "chat",
            "chat with comments and CRLF",
            "usage beside the choices",
            "groq",
            "usage in a choice",
        )
    },
    "chat with calls": Complete(_CHATS, EVENTS, chunks(*CALL_DELTAS, finish="tool_calls")),
    "chat at its length": Complete(_CHATS, EVENTS, chunks({"content": "Once"}, finish="length")),
    "completion": Complete("/v1/completions", EVENTS, b"".join(completion_events())),
    "response": Complete(_RESPONSES, EVENTS, STREAMS["response.completed"][0]),
    "response without types": Complete(_RESPONSES, EVENTS, STREAMS["response first, no type"][0]),
    "message": Complete(_MESSAGES, EVENTS, message_events()),
    "message with calls": Complete(
        _MESSAGES,
        EVENTS,
        message_events(
            THOUGHT_BLOCK,
            TOOL_BLOCK,
            (TOOL_BLOCK[0], []),
            stop_reason="tool_use",
        ),
    ),
}
