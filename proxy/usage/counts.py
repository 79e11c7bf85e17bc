"""The token counts of one answer, read from its decoded JSON.

The one thing a reader would get wrong: a field that was not told is None, never zero. An answer
without usage means that nobody asked for it, not that it was free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Fits a signed 32-bit INTEGER column, and sums of many still fit 64 bits. No answer has two
# billion tokens; a count beyond that is an upstream's mistake or a trick.
_MAX_COUNT = 2**31 - 1
_MAX_TIME = 2**53  # what a JSON number can carry everywhere; some services count milliseconds
_MAX_TEXT = 512  # longer than any model name or id seen; the event is one log line

# "prompt_token_details" is no slip of ours: https://platform.openai.com/docs/api-reference/runs
_PROMPT_DETAILS = (
    "prompt_tokens_details",
    "prompt_token_details",
    "input_tokens_details",
    "input_token_details",
)
_COMPLETION_DETAILS = (
    "completion_tokens_details",
    "completion_token_details",
    "output_tokens_details",
    "output_token_details",
)
_ENDED = ("completed", "incomplete", "failed", "cancelled", "expired")
_ENDING_TYPES = (".completed", ".incomplete", ".failed", ".done")


class Usage(NamedTuple):
    """Who answered, and what it counted. Counts are tokens, `created` is unix time; None: not told.

    `prompt_tokens` includes the cached ones and `completion_tokens` the reasoning ones, as OpenAI
    counts; a service that counts otherwise is taken at its word.
    """

    model: str | None = None
    response_id: str | None = None
    created: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @property
    def has_counts(self) -> bool:
        """Whether anything was counted, or only the name of the answer is known."""
        return (
            self.prompt_tokens is not None
            or self.completion_tokens is not None
            or self.total_tokens is not None
        )

    @property
    def total(self) -> int:
        """All tokens; the sum of both sides where no total was told, 0 where nothing was."""
        if self.total_tokens is not None:
            return self.total_tokens
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    def named_by(self, other: Usage | None) -> Usage:
        """The same counts, with the name that `other` gives where this one has none."""
        if other is None or (self.model and self.response_id and self.created):
            return self
        return self._replace(
            model=self.model or other.model,
            response_id=self.response_id or other.response_id,
            created=self.created or other.created,
        )

    def as_metadata(self) -> dict[str, str | int]:
        """The `metadata` of a usage event (docs/events.md); what was not told is left out."""
        return {
            name: told for name, told in zip(self._fields, self, strict=True) if told is not None
        }


def read_answer(answer: object) -> Usage:
    """The usage in a decoded JSON answer, or in the data of one SSE event. Never raises.

    Read are chat completions, completions, embeddings, images, audio and moderations (`usage` at
    the top, or `x_groq.usage`), the Responses API (bare, or in its event's wrapper) and Assistants
    runs. Anything of a wrong type counts as not told.
    """
    body = _unwrap(answer)
    # A run's usage contains that of its steps: counting a step would count it twice.
    if body is None or body.get("object") == "thread.run.step":
        return Usage()
    # Only these two places: `tool_usage`, `usage_breakdown` and a "usage" in the model's own text
    # or tool arguments look alike and are something else.
    usage = _mapping(body, "usage") or _mapping(_mapping(body, "x_groq"), "usage")
    if not usage:
        return Usage(_text(body, "model"), _text(body, "id"), _time(body))
    # Gateways exist that send both families, with zeros in the input_/output_ one: prompt_ first.
    prompt = _count(usage, "prompt_tokens")
    completion = _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens")
    if prompt is None and completion is None:
        prompt, completion = _count(usage, "input_tokens"), _count(usage, "output_tokens")
        # This family may come without a total, and defines it as the sum; the other always has it.
        if total is None and prompt is not None and completion is not None:
            total = prompt + completion
    return Usage(
        model=_text(body, "model"),
        response_id=_text(body, "id"),
        created=_time(body),
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        cached_tokens=_detail(usage, _PROMPT_DETAILS, "cached_tokens"),
        reasoning_tokens=_detail(usage, _COMPLETION_DETAILS, "reasoning_tokens"),
    )


def is_final(answer: object) -> bool:
    """Whether the counts in this SSE event are the last ones, even if the stream is cut after it.

    Some services count cumulatively in every chunk, so having seen counts is not enough.
    """
    if not isinstance(answer, dict):
        return False
    kind = answer.get("type")
    if isinstance(kind, str) and kind.endswith(_ENDING_TYPES):
        return True
    body = _unwrap(answer) or answer
    if body.get("status") in _ENDED:
        return True
    choices = body.get("choices")
    # An empty list is OpenAI's own late chunk; others put the counts beside the finish reason.
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and choice.get("finish_reason") for choice in choices
    )


def _unwrap(answer: object) -> Mapping[str, object] | None:
    """The object that carries `usage`: the answer itself, or the `response` inside an event."""
    if not isinstance(answer, dict):
        return None
    inner = answer.get("response")
    if isinstance(inner, dict):
        kind = answer.get("type")
        # Proven by either side: in some streams the data has no `type`, only the event a name.
        if inner.get("object") == "response" or (
            isinstance(kind, str) and kind.startswith("response.")
        ):
            return inner
    return answer


def _mapping(body: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _number(value: object, most: int) -> int | None:
    # `type is` and not isinstance: True is an int, and is no count.
    return value if type(value) is int and 0 <= value <= most else None


def _count(usage: Mapping[str, object], name: str) -> int | None:
    value = usage.get(name)
    # As `_number`, which costs a call for each of a dozen.
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else None


def _text(body: Mapping[str, object], name: str) -> str | None:
    value = body.get(name)
    # Azure's first chunk names nothing: "model": "", "id": "", "created": 0.
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT else None


def _time(body: Mapping[str, object]) -> int | None:
    told = _number(body.get("created"), _MAX_TIME) or _number(body.get("created_at"), _MAX_TIME)
    return told or None


def _detail(usage: Mapping[str, object], places: tuple[str, ...], name: str) -> int | None:
    for place in places:
        details = usage.get(place)
        if isinstance(details, dict) and (value := _count(details, name)) is not None:
            return value
    return _count(usage, name)  # flat, as Moonshot and Perplexity have it
