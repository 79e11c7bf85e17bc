"""The token counts of one response.

A count that the upstream did not report is None, never zero: a response without usage means that
it was not asked for, not that it was free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

#: What may be billed apart from the two sides; `seconds` may be a fraction.
Details = Mapping[str, int | float | str]

# The counts that are summed over several responses.
_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "reasoning_tokens",
)


class Usage(NamedTuple):
    """The name of a response and its counts. Counts are LLM tokens, `created` is unix time.

    `prompt_tokens` includes the cached ones and `completion_tokens` the reasoning ones, as OpenAI
    counts. `details`: `service_tier`, `cache_write_tokens`, `audio_prompt_tokens`,
    `audio_completion_tokens`, `image_prompt_tokens`, `image_completion_tokens`,
    `cached_audio_tokens`, `seconds`, `characters`, each only where it is not zero.
    """

    model: str | None = None
    response_id: str | None = None
    created: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    details: Details | None = None

    @property
    def has_counts(self) -> bool:
        """Whether there are counts, and not only the name of the response."""
        return (
            self.prompt_tokens is not None
            or self.completion_tokens is not None
            or self.total_tokens is not None
            or (self.details is not None and not self.details.keys().isdisjoint(_MEASURES))
        )

    @property
    def total(self) -> int:
        """The total as reported, else the sum of both sides, else 0."""
        if self.total_tokens is not None:
            return self.total_tokens
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    def named_by(self, other: Usage | None) -> Usage:
        """Return these counts, with the name and tier of `other` where this one has none."""
        if other is None:
            return self
        details = self.details
        if other.details is not None and "service_tier" in other.details:
            details = {"service_tier": other.details["service_tier"], **(details or {})}
        return self._replace(
            model=self.model or other.model,
            response_id=self.response_id or other.response_id,
            created=self.created or other.created,
            details=details,
        )

    def plus(self, later: Usage) -> Usage:
        """Return the sum of both, under the name of `later`."""
        added: dict[str, int | None] = {}
        for name in _COUNTS:
            counts = [count for count in (getattr(self, name), getattr(later, name)) if count]
            known = getattr(self, name) is not None or getattr(later, name) is not None
            added[name] = sum(counts) if known else None
        details = dict(self.details or {})
        for name, value in (later.details or {}).items():
            before = details.get(name)
            if isinstance(before, int | float) and isinstance(value, int | float):
                details[name] = before + value
            else:
                details[name] = value
        return later._replace(
            model=later.model or self.model,
            response_id=later.response_id or self.response_id,
            created=later.created or self.created,
            details=details or None,
            **added,
        )

    def as_metadata(self) -> dict[str, str | int | float]:
        """Return the `metadata` of a usage event (docs/events.md), without unknown values."""
        metadata: dict[str, str | int | float] = {
            name: value
            for name, value in zip(_NAMES, self, strict=False)
            if value is not None and not isinstance(value, Mapping)
        }
        if self.details is not None:
            metadata.update(self.details)
        return metadata


# Counts of responses that are not billed by tokens.
_MEASURES = frozenset({"seconds", "characters"})
# All but `details`, whose members stand beside the others in an event.
_NAMES = Usage._fields[:-1]
