"""The usage in a decoded JSON response, or in the data of one event.

Three families of names exist: OpenAI's chat (`prompt_tokens`), OpenAI's newer APIs and Anthropic
(`input_tokens`), and single counts under names of a vendor's own. Sources:
https://platform.openai.com/docs/api-reference, https://docs.anthropic.com/en/api/messages.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.usage.counts import Usage
from proxy.usage.details import (
    COMPLETION,
    NOTHING,
    PROMPT,
    cached_tokens,
    details_of,
    side_details,
    whole,
)

_ANTHROPIC_CACHE = ("cache_creation_input_tokens", "cache_read_input_tokens")
# The largest integer that every JSON parser keeps; some services count milliseconds.
_MAX_TIME = 2**53
_MAX_TEXT = 512  # longer than any model name or id seen; the event is one log line


def read_response(response: object) -> Usage:
    """Return the usage in a decoded JSON response, or in the data of one SSE event. Never raises.

    It reads chat completions, completions, embeddings, images, audio and moderations (`usage` at
    the top, in `x_groq` or in a choice), the Responses API (bare, or in its event's wrapper),
    Assistants runs and Anthropic's messages. A value of a wrong type counts as not reported.
    """
    body = unwrap(response)
    # A run's usage contains that of its steps: counting a step would count it twice.
    if body is None or body.get("object") == "thread.run.step":
        return Usage()
    model, response_id = _text(body.get("model")), _text(body.get("id"))
    created = _time(body.get("created")) or _time(body.get("created_at"))
    usage = _usage_in(body)
    # Gateways exist that send both families, with zeros in the input_/output_ one: prompt_ first.
    prompt = whole(usage.get("prompt_tokens"))
    completion = whole(usage.get("completion_tokens"))
    total = whole(usage.get("total_tokens"))
    if len(usage) == 3 and prompt is not None and completion is not None and total is not None:
        # Many services report nothing else: nothing else is looked for.
        details = details_of(body, usage, NOTHING, NOTHING) if "service_tier" in body else None
        return Usage(model, response_id, created, prompt, completion, total, details=details)
    if prompt is None and completion is None:
        prompt, completion = _input_tokens(usage), whole(usage.get("output_tokens"))
        # This family may come without a total, and defines it as the sum; the other always has it.
        if total is None and prompt is not None and completion is not None:
            total = prompt + completion
    of_prompt, of_completion = side_details(usage, PROMPT), side_details(usage, COMPLETION)
    reasoning = whole(of_completion.get("reasoning_tokens"))
    if reasoning is None:
        # Beside the counts: Perplexity. Anthropic calls it thinking.
        reasoning = whole(usage.get("reasoning_tokens", of_completion.get("thinking_tokens")))
    return Usage(
        model,
        response_id,
        created,
        prompt,
        completion,
        total,
        cached_tokens(usage, of_prompt),
        reasoning,
        details_of(body, usage, of_prompt, of_completion),
    )


def unwrap(response: object) -> Mapping[str, object] | None:
    """Return the object that carries `usage`: the response itself, or the one inside an event."""
    if type(response) is not dict:
        return None
    if "response" in response:
        inner = response["response"]
        if type(inner) is dict:
            kind = response.get("type")
            # Either field proves it: in some streams only the event has a name, not the data.
            if inner.get("object") == "response" or (
                isinstance(kind, str) and kind.startswith("response.")
            ):
                return inner
    elif "message" in response and response.get("type") == "message_start":
        inner = response["message"]
        if type(inner) is dict:
            return inner
    return response


def _usage_in(body: Mapping[str, object]) -> Mapping[str, object]:
    """Return the object with the counts, empty where there is none.

    It is looked for in three places only: `tool_usage`, `usage_breakdown` and a "usage" in the
    model's own text or tool arguments look alike and are something else.
    """
    usage = body.get("usage")
    if type(usage) is dict and usage:
        return usage
    groq = body.get("x_groq")
    if type(groq) is dict and type(groq.get("usage")) is dict:
        found: Mapping[str, object] = groq["usage"]
        return found
    choices = body.get("choices")
    if type(choices) is list:
        for choice in reversed(choices):  # Moonshot
            if type(choice) is dict and type(choice.get("usage")) is dict:
                return choice["usage"] or NOTHING
    return NOTHING


def _input_tokens(usage: Mapping[str, object]) -> int | None:
    """Return `input_tokens`, those of the cache included.

    Anthropic counts those apart (https://docs.anthropic.com/en/api/messages). It gives no total;
    a service that gives one counts as OpenAI does.
    """
    counted = whole(usage.get("input_tokens"))
    if "total_tokens" in usage:
        return counted
    apart = [whole(usage.get(name)) for name in _ANTHROPIC_CACHE]
    known = [count for count in (counted, *apart) if count is not None]
    return sum(known) if known else None


def _text(value: object) -> str | None:
    # Azure's first chunk names nothing: "model": "", "id": "", "created": 0.
    return value if type(value) is str and 0 < len(value) <= _MAX_TEXT else None


def _time(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 < value <= _MAX_TIME else None
