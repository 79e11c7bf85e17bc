"""Chunks of a chat completion as a stream of Anthropic's events. Pure: bytes in, bytes out.

Each chunk is translated when it is whole, so any cut of the upstream's bytes gives the same output.

| chunk | events |
|---|---|
| the first | `message_start`, with counts of zero |
| text, thoughts, arguments | a delta; where the kind changes, a stop and a start before it |
| a call's arguments before its name | none: they wait for it |
| the finish reason, the usage | none: they are kept |
| `[DONE]`, or the end after a finish reason | a stop, `message_delta`, `message_stop` |
| an error | `error`; nothing follows it |

Source: https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from proxy.core.errors import ResponseBroken
from proxy.providers.anthropic.errors import anthropic_error_of
from proxy.providers.anthropic.to_messages import (
    message_usage,
    reasoning_of,
    stop_reason,
    text_of,
)
from proxy.providers.anthropic.translated import string_in
from proxy.providers.transforms import ToolCalls
from proxy.usage.sse import SseDecoder, SseEvent

#: The largest chunk. None is nearly as large.
MAX_EVENT_BYTES: Final = 4 * 1024 * 1024
_DONE: Final = b"[DONE]"
_DELTAS: Final[Mapping[str, tuple[str, str]]] = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
}


@dataclass(slots=True)
class _Tool:
    """A call, whose arguments wait for its name."""

    id: str = ""
    name: str = ""
    waiting: list[str] = field(default_factory=list)
    begun: bool = False


class MessagesStream:
    """A body transform: `feed` each chunk, `end` when the response has ended."""

    __slots__ = (
        "_broken",
        "_calls",
        "_decoder",
        "_ended",
        "_failed",
        "_finish",
        "_finished",
        "_index",
        "_model",
        "_open",
        "_refused",
        "_spare_id",
        "_started",
        "_tools",
        "_usage",
    )

    #: Only whole events go out.
    at_event_boundary = True

    def __init__(self, model: str, spare_id: str) -> None:
        """`model` and `spare_id` stand where the upstream gives none."""
        self._decoder = SseDecoder(MAX_EVENT_BYTES)
        self._model = model
        self._spare_id = spare_id
        self._started = self._finished = self._ended = self._failed = self._refused = False
        self._broken: ResponseBroken | None = None
        self._calls = ToolCalls()
        self._tools: dict[int, _Tool] = {}
        #: What the open block is: a kind, or the number of a call. None: no block is open.
        self._open: str | int | None = None
        self._index = -1
        self._finish: Any = None
        self._usage: Any = None

    def feed(self, chunk: bytes) -> bytes:
        """Return the events of the chunks that are whole now.

        Raises ResponseBroken for a chunk that cannot be read.
        """
        if self._broken is not None:
            raise self._broken
        out: list[bytes] = []
        for event in self._decoder.feed(chunk):
            if self._ended or self._failed:
                break
            try:
                self._translate(event, out)
            except ResponseBroken as error:
                if not out:
                    raise
                self._broken = error  # what is before it still goes out
                break
        return b"".join(out)

    def end(self) -> bytes:
        """Return the last events, if the upstream sent no `[DONE]` behind its finish reason.

        Raises ResponseBroken for a stream that has not come to its end.
        """
        if self._broken is not None:
            raise self._broken
        if self._ended:
            return b""
        if not self._finished:
            raise ResponseBroken("the upstream's stream ended before its message did")
        out: list[bytes] = []
        self._stop(out)
        return b"".join(out)

    def _translate(self, event: SseEvent, out: list[bytes]) -> None:
        if event.members is not None:
            raise ResponseBroken("a chunk of the upstream is too large to be translated")
        if not event.data:
            return
        if event.data.strip() == _DONE:
            self._stop(out)
            return
        try:
            data = orjson.loads(event.data)
        except orjson.JSONDecodeError as error:
            raise ResponseBroken("a chunk of the upstream is no JSON") from error
        if not isinstance(data, dict):
            return
        if data.get("error"):
            self._failed = True
            out.append(b"event: error\ndata: " + anthropic_error_of(event.data) + b"\n\n")
            return
        self._start(data, out)
        if isinstance(usage := data.get("usage"), dict):
            self._usage = usage
        self._calls.repair(data)
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or choice.get("index", 0) != 0:
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._delta(delta, out)
        if choice.get("finish_reason") is not None:
            self._finish, self._finished = choice["finish_reason"], True

    def _start(self, chunk: Mapping[str, Any], out: list[bytes]) -> None:
        if self._started:
            return
        self._started = True
        message: dict[str, Any] = {
            "id": string_in(chunk, "id") or f"msg_{self._spare_id}",
            "type": "message",
            "role": "assistant",
            "model": string_in(chunk, "model") or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        out.append(_event({"type": "message_start", "message": message}))

    def _delta(self, delta: Mapping[str, Any], out: list[bytes]) -> None:
        if thought := reasoning_of(delta):
            self._piece("thinking", thought, out)
        if text := text_of(delta):
            self._refused = self._refused or bool(delta.get("refusal"))
            self._piece("text", text, out)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._call(call, out)

    def _piece(self, kind: str, text: str, out: list[bytes]) -> None:
        delta, member = _DELTAS[kind]
        if self._open != kind:
            block = {"type": kind, member: ""}
            self._begin(kind, {**block, "signature": ""} if kind == "thinking" else block, out)
        self._send({"type": delta, member: text}, out)

    def _call(self, call: Mapping[str, Any], out: list[bytes]) -> None:
        number = call["index"]
        tool = self._tools.setdefault(number, _Tool())
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        tool.id = tool.id or string_in(call, "id")
        arguments = string_in(function, "arguments")
        if not tool.begun:
            tool.name = tool.name or string_in(function, "name")
            if not tool.name:
                tool.waiting.append(arguments)
                return
            arguments = "".join([*tool.waiting, arguments])
            tool.begun = True
            block = {
                "type": "tool_use",
                "id": tool.id or f"toolu_{self._spare_id}_{number}",
                "name": tool.name,
                "input": {},
            }
            self._begin(number, block, out)
        if not arguments:
            return
        if self._open != number:
            raise ResponseBroken("the upstream's calls of tools are mixed with each other")
        self._send({"type": "input_json_delta", "partial_json": arguments}, out)

    def _begin(self, kind: str | int, block: Mapping[str, Any], out: list[bytes]) -> None:
        self._close(out)
        self._open = kind
        self._index += 1
        out.append(
            _event({"type": "content_block_start", "index": self._index, "content_block": block})
        )

    def _close(self, out: list[bytes]) -> None:
        if self._open is not None:
            self._open = None
            out.append(_event({"type": "content_block_stop", "index": self._index}))

    def _send(self, delta: Mapping[str, Any], out: list[bytes]) -> None:
        out.append(_event({"type": "content_block_delta", "index": self._index, "delta": delta}))

    def _stop(self, out: list[bytes]) -> None:
        if not self._started:
            raise ResponseBroken("the upstream's stream has no message")
        if any(not tool.begun for tool in self._tools.values()):
            raise ResponseBroken("a call of a tool in the upstream's stream has no name")
        self._ended = True
        self._close(out)
        reason = stop_reason(self._finish, called=bool(self._tools), refused=self._refused)
        out.append(
            _event(
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": reason, "stop_sequence": None},
                    "usage": message_usage(self._usage),
                }
            )
        )
        out.append(_event({"type": "message_stop"}))


def _event(data: Mapping[str, Any]) -> bytes:
    name: str = data["type"]
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
