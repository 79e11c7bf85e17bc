"""Anthropic by script: `/v1/messages`, `/v1/messages/count_tokens` and `/v1/models`.

It responds with text, with a call of the first tool that it is offered, and with a signed thought
before either where `thinking` is on. It refuses what Anthropic refuses: a missing `max_tokens`, a
foreign signature, a missing `anthropic-version`. Failures are those of
:mod:`tests.support.mock_provider`.

Source: https://platform.claude.com/docs/en/api/messages, and `build-with-claude/streaming` and
`api/errors` there.
"""

import json
from typing import Any

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


class MockAnthropic(MockProvider):
    """One account. `signature` is what it signs thoughts with, and the only one it takes."""

    def __init__(self, keys: set[str] | None = None, signature: str = "c2lnbmVk") -> None:
        super().__init__("anthropic", keys)
        self.signature = signature

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
            names = ("claude-small", "claude-large")
            models = [
                {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01"}
                for name in names
            ]
            ends = {"first_id": names[0], "last_id": names[-1], "has_more": False}
            reply(talk, {"data": models, **ends})
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

    def _wrong(self, body: dict[str, Any]) -> str:
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: Field required"
        if not body.get("messages"):
            return "messages: at least one message is required"
        if {"role", "content"} - set(body["messages"][0]) or "functions" in body:
            return "messages.0: Field required"
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
