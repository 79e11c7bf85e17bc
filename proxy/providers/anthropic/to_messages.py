"""A chat completion as a message of Anthropic's. Pure; the completion is not changed.

Sources: https://platform.claude.com/docs/en/api/messages, Anthropic's Python SDK (`types/`), and
OpenAI's API specification.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.errors import ResponseBroken
from proxy.providers.anthropic.translated import string_in
from proxy.usage.details import whole

_log = logging.getLogger(__name__)

#: OpenAI's `finish_reason` → Anthropic's `stop_reason`.
_STOP: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def message_of(completion: Mapping[str, Any], model: str, spare_id: str) -> dict[str, Any]:
    """Return the message of the first choice of a `completion`.

    `model` and `spare_id` stand where the completion has none; ids that are missing are made of
    `spare_id`.

    Raises ResponseBroken: there is no choice, or a call has no name or no JSON object as arguments.
    """
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ResponseBroken("the upstream's completion has no message")
    finish = choice.get("finish_reason")
    content: list[dict[str, Any]] = []
    if thought := reasoning_of(message):
        content.append({"type": "thinking", "thinking": thought, "signature": ""})
    if text := text_of(message):
        content.append({"type": "text", "text": text, "citations": None})
    calls = message.get("tool_calls")
    tools = []
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            tools += _tool_use(call, f"toolu_{spare_id}_{number}", finish)
    return {
        "id": string_in(completion, "id") or f"msg_{spare_id}",
        "type": "message",
        "role": "assistant",
        "model": string_in(completion, "model") or model,
        "content": content + tools,
        "stop_reason": stop_reason(finish, called=bool(tools), refused=_refused(message)),
        "stop_sequence": None,
        "usage": message_usage(completion.get("usage")),
    }


def stop_reason(finish: Any, *, called: bool, refused: bool = False) -> str:
    """Return why a message ended. `called`: it has calls of tools. `refused`: it is a refusal.

    Some services say `stop` although tools are called: an agent would stop without a word. A reason
    that is not known is no error: the text is whole.
    """
    known = _STOP.get(finish) if isinstance(finish, str) else "end_turn"
    if known is None:
        _log.warning("chat response: unknown finish_reason %.64r", finish)
        known = "end_turn"
    if known in ("end_turn", "tool_use"):
        if called:
            return "tool_use"
        return "refusal" if refused else "end_turn"
    return known


def message_usage(usage: Any) -> dict[str, Any]:
    """Return OpenAI's counts under Anthropic's names. The two that are required are 0 if unknown.

    OpenAI counts the tokens of the cache within `prompt_tokens`, Anthropic apart.
    """
    usage = usage if isinstance(usage, dict) else {}
    of_prompt = usage.get("prompt_tokens_details")
    of_prompt = of_prompt if isinstance(of_prompt, dict) else {}
    read = whole(of_prompt.get("cached_tokens"))
    written = whole(of_prompt.get("cache_write_tokens"))
    prompt = whole(usage.get("prompt_tokens")) or 0
    counts: dict[str, Any] = {"input_tokens": max(0, prompt - (read or 0) - (written or 0))}
    if written is not None:
        counts["cache_creation_input_tokens"] = written
    if read is not None:
        counts["cache_read_input_tokens"] = read
    counts["output_tokens"] = whole(usage.get("completion_tokens")) or 0
    details = usage.get("completion_tokens_details")
    thinking = whole(details.get("reasoning_tokens")) if isinstance(details, dict) else None
    if thinking is not None:
        counts["output_tokens_details"] = {"thinking_tokens": thinking}
    return counts


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Return the thoughts of a message, or of a delta, under either name that services use."""
    return string_in(message, "reasoning_content") or string_in(message, "reasoning")


def text_of(message: Mapping[str, Any]) -> str:
    """Return the text of a message or of a delta, be it a refusal."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join([string_in(part, "text") for part in parts])
    return (content if isinstance(content, str) else "") + string_in(message, "refusal")


def _refused(message: Mapping[str, Any]) -> bool:
    return bool(string_in(message, "refusal"))


def _tool_use(call: Mapping[str, Any], spare_id: str, finish: Any) -> list[dict[str, Any]]:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    try:
        given = orjson.loads(string_in(function, "arguments") or "{}")
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        if finish == "length":
            return []  # it was cut off, and cannot be run
        raise ResponseBroken("the arguments of a call in the upstream's completion are no object")
    if not (name := string_in(function, "name")):
        raise ResponseBroken("a call of a tool in the upstream's completion has no name")
    return [
        {
            "type": "tool_use",
            "id": string_in(call, "id") or spare_id,
            "name": name,
            "input": given,
        }
    ]
