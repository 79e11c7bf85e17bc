"""Counts that may be billed apart from prompt and completion: cached, written, audio, by time.

The names are those of OpenAI's types of 2026 (`*_tokens_details`), and those that other vendors put
beside their counts.
"""

from __future__ import annotations

from collections.abc import Mapping

# Fits a signed 32-bit INTEGER column, and sums of many still fit 64 bits. No response has two
# billion tokens; a count beyond that is an upstream's mistake or a trick.
_MAX_COUNT = 2**31 - 1
_MAX_TIER = 64
# "prompt_token_details" is not a typo: https://platform.openai.com/docs/api-reference/runs
PROMPT = (
    "prompt_tokens_details",
    "prompt_token_details",
    "input_tokens_details",
    "input_token_details",
)
COMPLETION = (
    "completion_tokens_details",
    "completion_token_details",
    "output_tokens_details",
    "output_token_details",
)
# Beside the counts: Moonshot, Perplexity; DeepSeek; Mistral; Anthropic and its translators.
_CACHED = frozenset(
    {"cached_tokens", "prompt_cache_hit_tokens", "num_cached_tokens", "cache_read_input_tokens"}
)
# Name in the event, name among the details of one side.
_OF_PROMPT = (
    ("cache_write_tokens", "cache_write_tokens"),
    ("cache_write_tokens", "cache_creation_tokens"),
    ("audio_prompt_tokens", "audio_tokens"),
    ("image_prompt_tokens", "image_tokens"),
)
_OF_COMPLETION = (
    ("audio_completion_tokens", "audio_tokens"),
    ("image_completion_tokens", "image_tokens"),
)
# Beside the counts, name in the event.
_MEASURED = {
    "cache_write_tokens": "cache_write_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
    "seconds": "seconds",
    "prompt_audio_seconds": "seconds",  # Mistral
    "characters": "characters",
}
NOTHING: Mapping[str, object] = {}


def cached_tokens(usage: Mapping[str, object], of_prompt: Mapping[str, object]) -> int | None:
    """Return the tokens of the prompt that came from the cache."""
    cached = whole(of_prompt.get("cached_tokens"))
    if cached or _CACHED.isdisjoint(usage):
        return cached
    # A gateway's zero among the details does not hide the vendor's own count.
    beside = [whole(usage.get(name)) for name in _CACHED]
    return max((count for count in beside if count is not None), default=cached)


def details_of(
    body: Mapping[str, object],
    usage: Mapping[str, object],
    of_prompt: Mapping[str, object],
    of_completion: Mapping[str, object],
) -> dict[str, int | float | str] | None:
    """Return `Usage.details`, from the response, its usage and the details of each side."""
    found: dict[str, int | float | str] = {}
    # Anthropic has it among the counts.
    tier = body.get("service_tier") or usage.get("service_tier")
    if type(tier) is str and len(tier) <= _MAX_TIER:
        found["service_tier"] = tier
    for name, key in _OF_PROMPT:
        if key in of_prompt and (count := whole(of_prompt[key])):
            found[name] = count
    for name, key in _OF_COMPLETION:
        if key in of_completion and (count := whole(of_completion[key])):
            found[name] = count
    if "cached_tokens_details" in of_prompt:
        of_cached = of_prompt["cached_tokens_details"]
        if type(of_cached) is dict and (count := whole(of_cached.get("audio_tokens"))):
            found["cached_audio_tokens"] = count
    if not _MEASURED.keys().isdisjoint(usage):
        for key, name in _MEASURED.items():
            if key in usage and (measure := _measure(name, usage[key])):
                found.setdefault(name, measure)
    return found or None


def side_details(usage: Mapping[str, object], places: tuple[str, ...]) -> Mapping[str, object]:
    """Return the details under the first of `places` that has some."""
    for place in places:
        if place in usage:
            details = usage[place]
            if type(details) is dict:
                return details
    return NOTHING


def whole(value: object) -> int | None:
    """Return a whole number in any spelling (19, 19.0, 1.9e1), since RFC 8259 has one kind.

    Returns None for any other value.
    """
    # `type is` and not isinstance: True is an int, and is no count.
    if type(value) is int:
        return value if 0 <= value <= _MAX_COUNT else None
    if type(value) is float and 0 <= value <= _MAX_COUNT and value.is_integer():
        return int(value)
    return None


def _measure(name: str, value: object) -> int | float | None:
    """Return a count; seconds may be a fraction, rounded to the millisecond."""
    count = whole(value)
    if count is None and name == "seconds" and type(value) is float and 0 < value <= _MAX_COUNT:
        return round(value, 3)
    return count
