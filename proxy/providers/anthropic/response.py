"""A message of Anthropic's as a chat completion. Pure; the message is not changed.

Sources: https://platform.claude.com/docs/en/api/messages, Anthropic's Python SDK (`types/`), and
OpenAI's API specification.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from proxy.providers.anthropic.translated import string_in
from proxy.usage.details import whole

_log = logging.getLogger(__name__)

#: Anthropic's `stop_reason` → OpenAI's `finish_reason`.
_FINISH: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_CACHE_COUNTS: Final = ("cache_creation_input_tokens", "cache_read_input_tokens")


def chat_completion(message: Mapping[str, Any], created: int) -> dict[str, Any]:
    """Return the chat completion of a `message`. `created` is the Unix time of its arrival."""
    content = message.get("content")
    blocks = [block for block in _list(content) if isinstance(block, dict)]
    choice = {
        "index": 0,
        "message": _message(blocks, message),
        "logprobs": None,
        "finish_reason": finish_reason(message.get("stop_reason")),
    }
    completion: dict[str, Any] = {
        "id": string_in(message, "id"),
        "object": "chat.completion",
        "created": created,
        "model": string_in(message, "model"),
        "choices": [choice],
    }
    usage = message.get("usage")
    if isinstance(usage, dict) and (counts := chat_usage(usage)):
        completion["usage"] = counts
    return completion


def finish_reason(stop_reason: Any) -> str:
    """Return how a choice ended. A reason that is not known is no error: the text is whole."""
    if stop_reason is None:
        return "stop"
    known = _FINISH.get(stop_reason) if isinstance(stop_reason, str) else None
    if known is None:
        _log.warning("anthropic response: unknown stop_reason %.64r", stop_reason)
        return "stop"
    return known


def refusal_of(holder: Mapping[str, Any]) -> str | None:
    """Return the explanation of a refusal, which a message or a `message_delta` may hold."""
    details = holder.get("stop_details")
    if not isinstance(details, dict) or details.get("type") != "refusal":
        return None
    return string_in(details, "explanation") or None


def chat_usage(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return Anthropic's counts under OpenAI's names. None: there are none.

    Anthropic counts the tokens of the cache apart, OpenAI within `prompt_tokens`. Details that were
    not reported are left out.
    """
    prompt = [whole(usage.get(name)) for name in ("input_tokens", *_CACHE_COUNTS)]
    completion = whole(usage.get("output_tokens"))
    if completion is None and all(count is None for count in prompt):
        return None
    prompt_tokens = sum(count or 0 for count in prompt)
    counts: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion or 0,
        "total_tokens": prompt_tokens + (completion or 0),
    }
    written, read = prompt[1:]
    of_prompt = {"cached_tokens": read, "cache_write_tokens": written}
    if found := {name: count for name, count in of_prompt.items() if count is not None}:
        counts["prompt_tokens_details"] = found
    details = usage.get("output_tokens_details")
    thinking = whole(details.get("thinking_tokens")) if isinstance(details, dict) else None
    if thinking is not None:
        counts["completion_tokens_details"] = {"reasoning_tokens": thinking}
    return counts


def _message(blocks: Sequence[Mapping[str, Any]], message: Mapping[str, Any]) -> dict[str, Any]:
    text: list[str] = []
    length = 0
    thinking: list[str] = []
    thinking_blocks: list[Mapping[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            piece = string_in(block, "text")
            annotations += _annotations(block, length, length + len(piece))
            text.append(piece)
            length += len(piece)
        elif kind == "thinking":
            thinking.append(string_in(block, "thinking"))
            thinking_blocks.append(block)
        elif kind == "redacted_thinking":
            thinking_blocks.append(block)
        elif kind == "tool_use":
            calls.append(_tool_call(block))
        # Others are calls of tools that run at Anthropic's, and their results.
    made: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text) if text else None,
        "refusal": refusal_of(message),
    }
    if any(thinking):
        made["reasoning_content"] = "".join(thinking)
    if thinking_blocks:
        made["thinking_blocks"] = thinking_blocks
    if calls:
        made["tool_calls"] = calls
    if annotations:
        made["annotations"] = annotations
    return made


def _tool_call(block: Mapping[str, Any]) -> dict[str, Any]:
    given = block.get("input")
    arguments = orjson.dumps({} if given is None else given).decode()
    return {
        "id": string_in(block, "id"),
        "type": "function",
        "function": {"name": string_in(block, "name"), "arguments": arguments},
    }


def _annotations(block: Mapping[str, Any], start: int, end: int) -> list[dict[str, Any]]:
    """Citations of web pages; OpenAI has no place for those of documents."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": start,
                "end_index": end,
                "url": citation["url"],
                "title": string_in(citation, "title"),
            },
        }
        for citation in _list(block.get("citations"))
        if isinstance(citation, dict) and isinstance(citation.get("url"), str)
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
