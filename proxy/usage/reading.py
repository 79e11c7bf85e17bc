"""What a meter has read off a response."""

from __future__ import annotations

from typing import Literal, NamedTuple

from proxy.usage.counts import Usage

UsageSource = Literal["reported", "partial", "estimated", "none"]


class Reading(NamedTuple):
    """`usage` may name the model even without counts; None: not even that.

    `source`: `reported`, the upstream gave its final counts; `partial`, generated text was cut, and
    these are the last counts seen, or one of its two sides is missing; `estimated` is reserved;
    `none`, no counts.
    """

    usage: Usage | None
    source: UsageSource


def source_of(usage: Usage, *, final: bool, generated: bool) -> UsageSource:
    """`generated`: text with two sides, unlike embeddings and their kind."""
    if not final:
        return "partial"
    missing = usage.prompt_tokens is None or usage.completion_tokens is None
    return "partial" if missing and generated else "reported"
