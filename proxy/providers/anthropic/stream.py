"""A stream of Anthropic's events as chunks of a chat completion. Pure: bytes in, bytes out.

Each event is translated when it is whole, so any cut of the upstream's bytes gives the same output.

| event | output |
|---|---|
| `message_start` | a chunk with the role |
| `ping` | a comment |
| `content_block_start` of a tool | a chunk with its index, id and name |
| `content_block_delta` | a chunk with text, arguments, or thinking |
| `content_block_stop` | arguments `{}` of a tool that had none; a signed block of thinking |
| `message_delta` | a chunk with the finish reason; its counts are kept |
| `message_stop` | the usage, where it was asked for, and `[DONE]` |
| `error` | an error; nothing follows it |

Unknown events and blocks, those of tools that run at Anthropic's among them, are left out.

Source: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from proxy.core.errors import ResponseBroken
from proxy.providers.anthropic.errors import openai_error
from proxy.providers.anthropic.response import chat_usage, finish_reason, refusal_of
from proxy.providers.anthropic.translated import string_in
from proxy.usage.sse import SseDecoder

#: The largest event. None is nearly as large.
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
_DONE: Final = b"data: [DONE]\n\n"
_PING: Final = b": ping\n\n"
#: A chunk that is one event, as Anthropic writes and flushes it. The size is far below the largest.
_ONE_EVENT: Final = re.compile(rb"event: \w+\ndata: (\{[^\r\n]{,65536})\n\n")
#: What follows the text in a chunk: :meth:`ChatStream._text_chunk`.
_BEHIND_TEXT: Final = b'},"logprobs":null,"finish_reason":null}]}\n\n'
_BEHIND_TEXT_WITH_USAGE: Final = b'},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'


@dataclass(slots=True)
class _Tool:
    """A call: its place among the calls, and whether any of its arguments have gone out."""

    index: int
    input: Any
    has_arguments: bool = False


@dataclass(slots=True)
class _Thinking:
    """A block of thinking, held for its signature, without which it cannot be sent back."""

    text: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)


class ChatStream:
    """A body transform: `feed` each chunk, `end` when the response has ended."""

    __slots__ = (
        "_before_text",
        "_behind_text",
        "_blocks",
        "_counts",
        "_decoder",
        "_ended",
        "_failed",
        "_finished",
        "_head",
        "_include_usage",
        "_started",
        "_tools",
    )

    #: Only whole events go out.
    at_event_boundary = True

    def __init__(self, created: int, *, include_usage: bool) -> None:
        """`created`: the Unix time of the arrival. `include_usage`: the client asked for it."""
        self._decoder = SseDecoder(MAX_EVENT_BYTES)
        self._include_usage = include_usage
        self._head: dict[str, Any] = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created,
            "model": "",
        }
        self._before_text = self._head_of_text()
        self._behind_text = _BEHIND_TEXT_WITH_USAGE if include_usage else _BEHIND_TEXT
        self._started = self._finished = self._ended = self._failed = False
        #: Anthropic's index of a block → what it is. The index counts blocks of all kinds.
        self._blocks: dict[Any, _Tool | _Thinking] = {}
        self._tools = 0
        self._counts: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> bytes:
        """Return the chunks of the events that `chunk` completes.

        Raises ResponseBroken for an event that cannot be read.
        """
        if self._ended or self._failed:
            return b""
        # Most chunks are one event, and the decoder takes longer than all the rest. It has seen
        # the beginning of the stream by then, where a byte order mark may be.
        if self._started and (whole := _ONE_EVENT.fullmatch(chunk)) and self._decoder.at_boundary:
            return self._translated(whole[1])
        out: list[bytes] = []
        for event in self._decoder.feed(chunk):
            if event.members is not None:
                raise ResponseBroken("an event of the upstream is too large to be translated")
            if event.data:
                out.append(self._translated(event.data))
            if self._ended or self._failed:
                break
        return b"".join(out)

    def end(self) -> bytes:
        """Return nothing. Raises ResponseBroken for a stream that has not come to its end."""
        if not self._ended:
            raise ResponseBroken("the upstream's stream ended before its message did")
        return b""

    def _translated(self, text: bytes) -> bytes:
        """Return what the event with this data becomes."""
        try:
            data = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ResponseBroken("an event of the upstream is no JSON") from error
        # What it is stands in the data; the `event:` line repeats it.
        kind = data.get("type") if isinstance(data, dict) else None
        if kind == "error":
            self._failed = True
            return b"data: " + openai_error(text) + b"\n\n"
        match kind:
            case "content_block_delta":
                return self._block_delta(data)
            case "content_block_start":
                return self._block_start(data)
            case "content_block_stop":
                return self._block_stop(data)
            case "message_start":
                return self._start(data)
            case "message_delta":
                return self._delta(data)
            case "message_stop":
                return self._stop()
            case "ping":
                return _PING
        return b""

    def _start(self, event: Mapping[str, Any]) -> bytes:
        message = _object(event, "message")
        self._count(message)
        if self._started:
            return b""
        self._started = True
        self._head["id"] = string_in(message, "id")
        self._head["model"] = string_in(message, "model")
        self._before_text = self._head_of_text()
        return self._chunk({"role": "assistant", "content": ""})

    def _block_start(self, event: Mapping[str, Any]) -> bytes:
        block = _object(event, "content_block")
        kind, index = block.get("type"), _index(event)
        if kind == "text":
            text = string_in(block, "text")
            return self._text_chunk(text) if text else b""
        if kind == "thinking":
            self._blocks[index] = thinking = _Thinking()
            if signature := string_in(block, "signature"):
                thinking.signature.append(signature)
            return self._think(thinking, string_in(block, "thinking"))
        if kind == "redacted_thinking":
            return self._chunk({"thinking_blocks": [block]})
        if kind != "tool_use":
            return b""
        self._blocks[index] = tool = _Tool(self._tools, block.get("input"))
        self._tools += 1
        # The input here is empty, and comes in deltas.
        function = {"name": string_in(block, "name"), "arguments": ""}
        call = {"id": string_in(block, "id"), "type": "function", "function": function}
        return self._chunk({"tool_calls": [{"index": tool.index, **call}]})

    def _block_delta(self, event: Mapping[str, Any]) -> bytes:
        delta = _object(event, "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            text = string_in(delta, "text")
            return self._text_chunk(text) if text else b""
        block = self._blocks.get(_index(event))
        if kind == "input_json_delta" and isinstance(block, _Tool):
            return self._arguments(block, string_in(delta, "partial_json"))
        if kind == "thinking_delta" and isinstance(block, _Thinking):
            return self._think(block, string_in(delta, "thinking"))
        if kind == "signature_delta" and isinstance(block, _Thinking):
            block.signature.append(string_in(delta, "signature"))
        return b""

    def _block_stop(self, event: Mapping[str, Any]) -> bytes:
        block = self._blocks.pop(_index(event), None)
        if isinstance(block, _Tool) and not block.has_arguments:
            given = {} if block.input is None else block.input
            return self._arguments(block, orjson.dumps(given).decode())
        if isinstance(block, _Thinking) and (signature := "".join(block.signature)):
            text = "".join(block.text)
            signed = {"type": "thinking", "thinking": text, "signature": signature}
            return self._chunk({"thinking_blocks": [signed]})
        return b""

    def _arguments(self, tool: _Tool, text: str) -> bytes:
        if not text:
            return b""
        tool.has_arguments = True
        return self._chunk({"tool_calls": [{"index": tool.index, "function": {"arguments": text}}]})

    def _think(self, block: _Thinking, text: str) -> bytes:
        if not text:
            return b""
        block.text.append(text)
        return self._chunk({"reasoning_content": text})

    def _delta(self, event: Mapping[str, Any]) -> bytes:
        self._count(event)
        delta = _object(event, "delta")
        reason = delta.get("stop_reason")
        return b"" if reason is None else self._finish(reason, refusal_of(delta))

    def _finish(self, reason: Any, refusal: str | None = None) -> bytes:
        if self._finished:
            return b""
        self._finished = True
        return self._chunk({} if refusal is None else {"refusal": refusal}, finish_reason(reason))

    def _stop(self) -> bytes:
        self._ended = True
        out = self._finish(None)
        if self._include_usage:
            usage = chat_usage(self._counts)
            out += _event({**self._head, "choices": [], "usage": usage})
        return out + _DONE

    def _count(self, holder: Mapping[str, Any]) -> None:
        """Take the counts of an event: they are cumulative, and absent is not zero."""
        counts = _object(holder, "usage")
        self._counts.update({name: count for name, count in counts.items() if count is not None})

    def _head_of_text(self) -> bytes:
        head = orjson.dumps(self._head)[:-1]
        return b"data: " + head + b',"choices":[{"index":0,"delta":{"content":'

    def _text_chunk(self, text: str) -> bytes:
        """Return the same as `_chunk` of a content, which nearly all chunks are."""
        return self._before_text + orjson.dumps(text) + self._behind_text

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        chunk = {**self._head, "choices": [choice]}
        if self._include_usage:
            chunk["usage"] = None
        return _event(chunk)


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _object(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    return value if isinstance(value, dict) else {}


def _index(event: Mapping[str, Any]) -> int:
    value = event.get("index")
    return value if isinstance(value, int) else -1
