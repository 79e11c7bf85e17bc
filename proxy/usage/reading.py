"""The result of a meter."""

from __future__ import annotations

from typing import Literal, NamedTuple

from proxy.usage.counts import Usage

UsageSource = Literal["reported", "partial", "estimated", "none"]


class Reading(NamedTuple):
    """The usage of a response, and its source. `usage` may be only a name, or None.

    `source` is one of:

    - `reported`: the upstream sent its final counts;
    - `partial`: generated text was cut and these are the last counts, or one side is missing;
    - `estimated`: reserved;
    - `none`: no counts.
    """

    usage: Usage | None
    source: UsageSource


def source_of(usage: Usage, *, final: bool, generated: bool) -> UsageSource:
    """Return the source. `generated` means text with two sides, unlike embeddings."""
    if not final:
        return "partial"
    missing = usage.prompt_tokens is None or usage.completion_tokens is None
    return "partial" if missing and generated else "reported"
