"""Anthropic by script: `/v1/messages`, `/v1/messages/count_tokens` and `/v1/models`.

It responds with text, with a call of the first tool that it is offered, and with a signed thought
before either where `thinking` is on. It refuses what Anthropic refuses: a missing `max_tokens`, a
foreign signature, a missing `anthropic-version`, and of the models that it lists, what they do not
take. Failures are those of :mod:`tests.support.mock_provider`.

Source: https://platform.claude.com/docs/en/api/messages, and `build-with-claude/streaming`,
`api/errors` and `api/models/list` there; `types/model_info.py` of Anthropic's Python SDK.
"""

import json
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs

from tests.support.fake_upstream import Conversation, sse
from tests.support.mock_provider import WORDS, MockProvider, reply

#: Of each response. All input is 9 + 4 + 16 = 29.
USAGE = {
    "input_tokens": 9,
    "cache_creation_input_tokens": 4,
    "cache_read_input_tokens": 16,
    "output_tokens": 12,
}
COUNTED = 42
THOUGHT = "They want words."
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_RATE_LIMITS = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
}


_CAPABILITIES = (
    "batch",
    "citations",
    "code_execution",
    "image_input",
    "pdf_input",
    "structured_outputs",
)


def model_info(
    name: str, max_tokens: int, *, efforts: Collection[str] = (), thinking: Collection[str] = ()
) -> dict[str, Any]:
    """An item of the list of models, with all members. `efforts` and `thinking` are those that the
    model takes."""
    types = ("adaptive", "between_tools", "disabled", "enabled")
    levels = ("high", "low", "max", "medium", "xhigh")
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": 200_000,
        "max_tokens": max_tokens,
        "capabilities": {
            **{each: {"supported": True} for each in _CAPABILITIES},
            "context_management": {"supported": True, "compact_20260112": {"supported": True}},
            "server_tools": {
                "supported": True,
                "code_execution": {"supported": True},
                "web_search": {"supported": True},
            },
            "effort": {
                "supported": bool(efforts),
                **{level: {"supported": level in efforts} for level in levels},
            },
            "thinking": {
                "supported": bool({"adaptive", "enabled"}.intersection(thinking)),
                "types": {each: {"supported": each in thinking} for each in types},
            },
        },
    }


#: The small one thinks by a budget; the large one takes effort.
MODELS = (
    model_info("claude-small", 4096, thinking=("enabled", "disabled")),
    model_info(
        "claude-large",
        64_000,
        efforts=("low", "medium", "high", "max"),
        thinking=("adaptive", "enabled", "disabled"),
    ),
)


class MockAnthropic(MockProvider):
    """One account. `signature` is what it signs thoughts with, and the only one it takes.
    `page_size`: the most models of one page."""

    def __init__(self, keys: set[str] | None = None, signature: str = "c2lnbmVk") -> None:
        super().__init__("anthropic", keys)
        self.signature = signature
        self.page_size = 1000

    def endpoint(self, talk: Conversation) -> str:
        return talk.request.target.partition("?")[0].removeprefix("/v1/")

    def error(self, code: int, message: str = "", error_code: str | None = None) -> Any:
        error: dict[str, Any] = {
            "type": _TYPES.get(code, "api_error"),
            "message": message or f"mock anthropic: {code}",
        }
        if error_code is not None:
            error["details"] = {"error_code": error_code}
        return {"type": "error", "error": error, "request_id": "req_mock"}

    def error_frame(self, code: int) -> bytes:
        return sse(self.error(code), "error")

    def begin(self, talk: Conversation, words: int) -> None:
        """Begin a stream: its head, the events without output, and so many words."""
        self._start(talk, {})
        if words:
            self._text(talk, 0, words, ends=False)

    def _has_credential(self, talk: Conversation) -> bool:
        request = talk.request
        versions = request.values("anthropic-version")
        bearers, keys = request.values("Authorization"), request.values("x-api-key")
        return len(versions) == 1 and len(bearers) + len(keys) == 1

    def _respond(self, talk: Conversation) -> None:
        endpoint, method = self.endpoint(talk), talk.request.method
        if endpoint == "models":
            reply(talk, self._page(talk.request.target.partition("?")[2]))
        elif method != "POST" or endpoint not in ("messages", "messages/count_tokens"):
            reply(talk, self.error(404, "Not found"), 404)
        elif endpoint == "messages/count_tokens":
            reply(talk, {"input_tokens": COUNTED})
        else:
            body = json.loads(talk.request.body)
            wrong = self._wrong(body)
            if wrong:
                reply(talk, self.error(400, wrong), 400)
            elif body.get("stream"):
                self._stream(talk, body)
            else:
                extra = [("request-id", "req_mock"), *_RATE_LIMITS.items()]
                reply(talk, self._message(body), 200, extra)

    def _page(self, query: str) -> dict[str, Any]:
        asked = parse_qs(query)
        after, limit = asked.get("after_id", [""])[0], int(asked.get("limit", ["20"])[0])
        names = [model["id"] for model in MODELS]
        start = names.index(after) + 1 if after else 0
        stop = start + min(limit, self.page_size)
        page = MODELS[start:stop]
        return {
            "data": page,
            "has_more": stop < len(MODELS),
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }

    def _wrong(self, body: dict[str, Any]) -> str:
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: Field required"
        if not body.get("messages"):
            return "messages: at least one message is required"
        if {"role", "content"} - set(body["messages"][0]) or "functions" in body:
            return "messages.0: Field required"
        known = next((model for model in MODELS if model["id"] == body["model"]), None)
        if known is not None and (wrong := _not_taken(body, known)):
            return wrong
        for number, message in enumerate(body["messages"]):
            for block in message["content"] if isinstance(message["content"], list) else ():
                if block["type"] == "thinking" and block.get("signature") != self.signature:
                    return f"messages.{number}: Invalid `signature` in `thinking` block"
        return ""

    def _blocks(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
            blocks.append({"type": "thinking", "thinking": THOUGHT, "signature": self.signature})
        if body.get("tools") and not _has_results(body):
            name, given = body["tools"][0]["name"], {"city": "Oslo"}
            blocks.append({"type": "tool_use", "id": "toolu_1", "name": name, "input": given})
        else:
            blocks.append({"type": "text", "text": "".join(WORDS)})
        return blocks

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        blocks = self._blocks(body)
        return {
            "id": "msg_mock",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": blocks,
            "stop_reason": "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn",
            "stop_sequence": None,
            "usage": USAGE,
        }

    def _start(self, talk: Conversation, body: dict[str, Any]) -> None:
        kind = ("Content-Type", "text/event-stream; charset=utf-8")
        talk.head("200 OK", [kind, ("Transfer-Encoding", "chunked"), ("request-id", "req_mock")])
        begun = {**self._message({"model": self.model_of(talk), **body}), "content": []}
        begun |= {"stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
        _send(talk, "message_start", message=begun)
        _send(talk, "ping")

    def _stream(self, talk: Conversation, body: dict[str, Any]) -> None:
        self._start(talk, body)
        blocks = self._blocks(body)
        for index, block in enumerate(blocks):
            if block["type"] == "text":
                self._text(talk, index, len(WORDS))
                continue
            empty, deltas = _split(block)
            _send(talk, "content_block_start", index=index, content_block=empty)
            for delta in deltas:
                _send(talk, "content_block_delta", index=index, delta=delta)
            _send(talk, "content_block_stop", index=index)
        end = {"stop_reason": self._message(body)["stop_reason"], "stop_sequence": None}
        _send(talk, "message_delta", delta=end, usage={"output_tokens": USAGE["output_tokens"]})
        _send(talk, "message_stop")
        talk.end_chunks()

    def _text(self, talk: Conversation, index: int, words: int, *, ends: bool = True) -> None:
        _send(talk, "content_block_start", index=index, content_block={"type": "text", "text": ""})
        for word in WORDS[:words]:
            delta = {"type": "text_delta", "text": word}
            _send(talk, "content_block_delta", index=index, delta=delta)
        if ends:
            _send(talk, "content_block_stop", index=index)


def _not_taken(body: dict[str, Any], model: dict[str, Any]) -> str:
    """What of a request the model does not take, in Anthropic's words; empty: it takes all."""
    capabilities = model["capabilities"]
    if body["max_tokens"] > model["max_tokens"]:
        return (
            f"max_tokens: {body['max_tokens']} > {model['max_tokens']}, which is the maximum "
            f"allowed number of output tokens for {model['id']}"
        )
    effort = (body.get("output_config") or {}).get("effort")
    if effort is not None and not capabilities["effort"][effort]["supported"]:
        return "This model does not support the effort parameter."
    kind = (body.get("thinking") or {}).get("type")
    if kind is not None and not capabilities["thinking"]["types"][kind]["supported"]:
        return f"thinking.type: {kind} is not supported for this model"
    if kind == "enabled":
        if not 1024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]:
            return "`max_tokens` must be greater than `thinking.budget_tokens`"
        if body.get("temperature", 1) != 1:
            return "`temperature` may only be set to 1 when thinking is enabled"
    return ""


def _split(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it starts in a stream, and its deltas."""
    if block["type"] == "thinking":
        return {"type": "thinking", "thinking": "", "signature": ""}, [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    text = json.dumps(block["input"])
    pieces = ("", text[:5], text[5:])
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return {**block, "input": {}}, deltas


def _has_results(body: dict[str, Any]) -> bool:
    content = body["messages"][-1]["content"]
    return isinstance(content, list) and any(one["type"] == "tool_result" for one in content)


def _send(talk: Conversation, name: str, **members: Any) -> None:
    talk.chunk(sse({"type": name, **members}, name))
