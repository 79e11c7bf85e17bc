"""Percentiles and medians: small samples, no interpolation."""

import math
import statistics
from collections.abc import Mapping, Sequence

#: Name of a figure → its value; the unit is the end of the name (`_us`, `_ms`, `_kb`, …).
Figures = dict[str, float]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 … 1) of them do not exceed; nan of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def medians(rounds: Sequence[Mapping[str, float]]) -> Figures:
    """Of each figure over the rounds that have it."""
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {
        name: statistics.median(figures[name] for figures in rounds if name in figures)
        for name in names
    }
