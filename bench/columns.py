"""How figures are shown: which of them, under which heading, with how many digits."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """``figure`` is a name among the figures of a scenario, ``heading`` includes its unit."""

    figure: str
    heading: str


def shown(value: float) -> str:
    """Three digits, as people write them: 5,360 · 186 · 29.4 · 0.35 · 0."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 99.95 or value == round(value):
        return f"{value:,.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.0095 else f"{value:.3f}"
