"""An SVG picture of latency distributions: which share of the requests took at most how long.

Cumulative, because a histogram's look depends on its bins, and the tail is what is looked for. The
thing to get wrong: the time axis is logarithmic, so equal distances are equal ratios.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from proxy.cli.benchtable import duration
from proxy.cli.figures import spread

_WIDTH: Final = 760
_HEIGHT: Final = 420
_LEFT: Final = 64
_RIGHT: Final = 24
_TOP: Final = 64
_BOTTOM: Final = 52
_COLOURS: Final = ("#d55e00", "#0072b2")  # told apart by the colour-blind, too
_MOST_POINTS: Final = 500
_SHARES: Final = (0, 25, 50, 75, 90, 100)


def svg(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """``series``: name → seconds of each request, at most two; an empty one is left out."""
    drawn = {name: sorted(v * 1e3 for v in values) for name, values in series.items() if values}
    axis = _Axis([value for values in drawn.values() for value in values])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}"'
        f' viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="#333">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(_LEFT, 24, title, "start", ' font-size="15"'),
        *_grid(axis),
    ]
    for place, (colour, (name, values)) in enumerate(zip(_COLOURS, drawn.items(), strict=False)):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _curve(values, axis))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        x = _LEFT + place * 340
        parts.append(f'<rect x="{x}" y="37" width="14" height="4" fill="{colour}"/>')
        parts.append(_text(x + 20, 44, f"{name}: {_percentiles(series[name])}", "start"))
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Logarithmic, from the decade's part (1, 2 or 5) below the least to the one above the most."""

    def __init__(self, values: Sequence[float]) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        marks = [
            factor * 10.0**power
            for power in range(
                math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive))) + 2
            )
            for factor in (1, 2, 5)
        ]
        least = max(mark for mark in marks if mark <= min(positive))
        most = min(mark for mark in marks if mark > max(positive))
        self.marks = [mark for mark in marks if least <= mark <= most]
        self._least, self._most = least, most

    def x(self, value: float) -> float:
        share = math.log(max(value, self._least) / self._least) / math.log(self._most / self._least)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _curve(values: Sequence[float], axis: _Axis) -> Iterator[tuple[float, float]]:
    yield axis.x(values[0]), _y(0)
    # Evenly thinned, but never without the slowest.
    step = max(1, len(values) // _MOST_POINTS)
    for index in [*range(0, len(values) - 1, step), len(values) - 1]:
        yield axis.x(values[index]), _y((index + 1) / len(values))


def _grid(axis: _Axis) -> Iterator[str]:
    for mark in axis.marks:
        x = axis.x(mark)
        yield f'<path d="M{x:.1f} {_y(0):.1f}V{_y(1):.1f}" stroke="#e4e4e4"/>'
        yield _text(x, _HEIGHT - 32, _short(mark), "middle")
    for percent in _SHARES:
        y = _y(percent / 100)
        yield f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#e4e4e4"/>'
        yield _text(_LEFT - 8, y + 4, f"{percent} %", "end")
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield _text(middle, _HEIGHT - 10, "share of the requests answered within …", "middle")


def _short(milliseconds: float) -> str:
    if milliseconds >= 1e3:
        return f"{milliseconds / 1e3:g} s"
    return f"{milliseconds:g} ms" if milliseconds >= 1 else f"{milliseconds * 1e3:g} µs"


def _percentiles(seconds: Sequence[float]) -> str:
    found = spread(seconds) or {}
    return ", ".join(f"{name} {duration(found[name])}" for name in ("p50", "p90", "p99"))


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'
