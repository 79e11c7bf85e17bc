"""The kind of response that an event belongs to: generated text or not, final or not."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.usage.extract import unwrap

_ENDED = ("completed", "incomplete", "failed", "cancelled", "expired")
_ENDING_TYPES = (".completed", ".incomplete", ".failed", ".done", ".cancelled")
_GENERATED = frozenset(
    {
        "chat.completion",
        "chat.completion.chunk",
        "text_completion",
        "response",
        "realtime.response",
        "thread.run",
    }
)
_ANTHROPIC_EVENTS = ("message_start", "message_delta")


def is_final(event: object) -> bool:
    """Whether the counts in this SSE event are final, even if the stream is cut after it.

    Some services report cumulative counts in every chunk, so counts alone are not enough.
    """
    if not isinstance(event, dict):
        return False
    kind = event.get("type")
    if isinstance(kind, str):
        if kind.endswith(_ENDING_TYPES):
            return True
        if kind in _ANTHROPIC_EVENTS:
            delta = event.get("delta")
            return isinstance(delta, dict) and bool(delta.get("stop_reason"))
    body = unwrap(event) or event
    if body.get("status") in _ENDED:
        return True
    choices = body.get("choices")
    # OpenAI's last chunk has an empty list; others put the counts beside the finish reason.
    return isinstance(choices, list) and all(
        isinstance(choice, dict) and choice.get("finish_reason") for choice in choices
    )


def is_generation(event: object) -> bool:
    """Whether the response is generated text, whose usage has two sides.

    Embeddings, moderations, images and transcriptions are not.
    """
    body = unwrap(event)
    if body is None:
        return False
    name, kind = body.get("object"), body.get("type")
    return (
        "choices" in body
        or (isinstance(name, str) and name in _GENERATED)
        or (isinstance(kind, str) and (kind == "message" or kind in _ANTHROPIC_EVENTS))
    )


def merge_anthropic_event(
    event: Mapping[str, object], before: Mapping[str, object] | None
) -> tuple[dict[str, object], dict[str, object]] | None:
    """Return the counts of Anthropic's stream after this event, and the event with all of them.

    Returns None for an event without counts. `message_start` begins them, `message_delta`
    replaces one by one those that it has
    (https://docs.anthropic.com/en/docs/build-with-claude/streaming).
    """
    if event.get("type") not in _ANTHROPIC_EVENTS:
        return None
    body = unwrap(event) or event
    usage = body.get("usage")
    counts = dict(before or {})
    if isinstance(usage, dict):
        counts.update({name: count for name, count in usage.items() if count is not None})
    return counts, {**body, "type": event["type"], "delta": event.get("delta"), "usage": counts}
