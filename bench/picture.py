"""A result as a picture: dots on logarithmic axes, one panel per figure, as SVG.

Dots and no bars: contenders are up to a thousand times apart, and the length of a bar on a
logarithmic axis says nothing. The dashed line is our target.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from bench.columns import shown
from bench.figures import Figures
from bench.result import Result
from bench.targets import TARGETS

WIDTH: Final = 760
_LEFT, _RIGHT, _ROW, _TOP = 90, 70, 24, 34
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 } .axis { font-size: 11px; fill: #656d76 }
.grid { stroke: #d1d9e0 } .target { stroke: #cf222e; stroke-dasharray: 4 3 }
circle { fill: #656d76 } .ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .axis { fill: #9198a1 } .grid { stroke: #3d444d }
  circle { fill: #9198a1 } .ours { fill: #4493f8 } .target { stroke: #f85149 }
}"""


@dataclass(frozen=True)
class Panel:
    """``target`` is the text of the target whose limit is drawn; a limit in × floor is turned into
    the unit of the panel."""

    scenario: str
    figure: str
    title: str
    target: str


PANELS: Final = (
    Panel("buffered", "cpu_us_per_request", "CPU per buffered request, µs", "CPU per request"),
    Panel("latency", "added_p50_ms", "Added at one connection, p50, ms", "added p50"),
    Panel("latency", "added_p99_ms", "Added at one connection, p99, ms", "added p99"),
    Panel("events", "cpu_us_per_event", "CPU per streamed event, µs", "CPU per event"),
)


def picture(result: Result, panels: Sequence[Panel] = PANELS) -> str:
    """The panels for which there are figures, one below the other."""
    parts: list[str] = []
    y = 0
    for panel in panels:
        measured = {
            name: figures
            for name in result.contenders(panel.scenario)
            if (figures := result.medians(panel.scenario, name)).get(panel.figure, 0) > 0
        }
        if measured:
            parts.append(_panel(panel, measured, y))
            y += _TOP + _ROW * len(measured) + 30
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" '
        f'viewBox="0 0 {WIDTH} {y}" role="img">'
    )
    return "\n".join([head, f"<style>{_STYLE}</style>", *parts, "</svg>", ""])


def _panel(panel: Panel, measured: dict[str, Figures], top: int) -> str:
    values = {name: figures[panel.figure] for name, figures in measured.items()}
    limit = _limit(panel, values)
    everything = [*values.values(), *([limit] if limit else [])]
    low, high = math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything)))
    high = max(high, low + 1)

    def x(value: float) -> float:
        share = (math.log10(value) - low) / (high - low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    bottom = top + _TOP + _ROW * len(values)
    parts = [f'<text class="title" x="0" y="{top + 18}">{escape(panel.title)}</text>']
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top + _TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text class="axis" x="{at}" y="{bottom + 14}" text-anchor="middle">'
            f"{10.0**power:,g}</text>"
        )
    if limit:
        at = x(limit)
        parts.append(f'<line class="target" x1="{at}" x2="{at}" y1="{top + _TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text class="axis" x="{at}" y="{top + _TOP - 4}" text-anchor="middle">target</text>'
        )
    for row, (name, value) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        y = top + _TOP + _ROW * row + _ROW // 2
        kind = ' class="ours"' if name == "ours" else ""
        parts += [
            f'<text x="0" y="{y + 4}">{escape(name)}</text>',
            f'<circle{kind} cx="{x(value)}" cy="{y}" r="6"/>',
            f'<text x="{x(value) + 12}" y="{y + 4}">{shown(value)}</text>',
        ]
    return "\n".join(parts)


def _limit(panel: Panel, values: dict[str, float]) -> float | None:
    for target in TARGETS:
        if (target.scenario, target.text) == (panel.scenario, panel.target):
            if target.unit != "× floor":
                return target.limit
            return target.limit * values["floor"] if "floor" in values else None
    return None
