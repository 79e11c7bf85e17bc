"""The report of a benchmark: the fields of ``results.json`` for each side, the table, the plot.

Latencies are of successful (2xx, complete) responses only, in milliseconds; None if there is none.

Note: ``p90_mean`` is the mean of the fastest 90 %, not of the slowest 10 %.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from proxy.tools.loadtest.connection import Sample
from proxy.tools.loadtest.runner import Load

NETWORK_ERROR: Final = "network_error"


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Returns average, extremes and percentiles (nearest rank) in milliseconds; None if empty."""
    values = sorted(value * 1e3 for value in seconds)
    if not values:
        return None
    fastest = values[: _rank(values, 0.9) + 1]
    return {
        "avg": math.fsum(values) / len(values),
        "min": values[0],
        "max": values[-1],
        "p50": values[_rank(values, 0.5)],
        "p90": values[_rank(values, 0.9)],
        "p90_mean": math.fsum(fastest) / len(fastest),
        "p99": values[_rank(values, 0.99)],
    }


def figures(load: Load, *, stream: bool) -> dict[str, Any]:
    """Returns all measurements of one side. The first names are fixed, more may follow."""
    good = [sample for sample in load.samples if sample.succeeded]
    failed = [sample for sample in load.samples if not sample.succeeded]
    total = spread([sample.total for sample in good]) or {}
    count = len(load.samples)
    found: dict[str, Any] = {
        "requests": count,
        "total_duration_ms": load.seconds * 1e3,
        "average_latency_ms": total.get("avg"),
        "p50_latency_ms": total.get("p50"),
        "p90_latency_ms": total.get("p90"),
        "p99_latency_ms": total.get("p99"),
        "throughput_rps": count / load.seconds if load.seconds else 0.0,
        "error_rate": len(failed) / count if count else 0.0,
        "errors": dict(Counter(map(_reason, failed)).most_common()),
        "success": len(good),
        "failed": len(failed),
        "min_latency_ms": total.get("min"),
        "max_latency_ms": total.get("max"),
        "p90_mean_latency_ms": total.get("p90_mean"),
        "upstream_latency_ms": spread([s.upstream for s in good if s.upstream is not None]),
        "proxy_latency_ms": spread([s.head - s.upstream for s in good if s.upstream is not None]),
        "body_transfer_ms": spread([s.total - s.head for s in good]),
        "response_codes": dict(sorted(Counter(map(_status, load.samples)).items())),
        "connections": load.connections,
        "client_cpu": load.cpu_seconds / load.seconds if load.seconds else 0.0,
    }
    return found | _of_streams(good, load.seconds) if stream else found


def _of_streams(good: Sequence[Sample], seconds: float) -> dict[str, Any]:
    events = sum(sample.events for sample in good)
    with_events = [sample for sample in good if sample.events]
    return {
        "events": events,
        "events_per_second": events / seconds if seconds else 0.0,
        "time_to_first_event_ms": spread(
            [sample.first_event for sample in good if sample.first_event is not None]
        ),
        "longest_stall_ms": max((sample.stall * 1e3 for sample in with_events), default=None),
    }


def _rank(values: Sequence[float], share: float) -> int:
    """Returns the index of the nearest rank. Rounds first: 0.9 × 10 must not become the tenth."""
    return max(0, math.ceil(round(share * len(values), 9)) - 1)


def _reason(sample: Sample) -> str:
    return sample.problem or f"HTTP {sample.status} {sample.code}".rstrip()


def _status(sample: Sample) -> str:
    return str(sample.status) if sample.status else NETWORK_ERROR


Figures = Mapping[str, Any]
#: Label; the value's path in the figures; how it is written; whether a ratio is meaningful.
Line = tuple[str, tuple[str, ...], Callable[[Any], str], bool]

_SPREAD: Final = (
    ("avg", "avg"),
    ("min", "min"),
    ("max", "max"),
    ("p90", "p90"),
    ("p90 mean", "p90_mean"),
)


def duration(milliseconds: float) -> str:
    """Formats in the unit in which it is at least 1: ``532.100µs``, ``6.300ms``, ``1.250s``."""
    if milliseconds >= 1e3:
        return f"{milliseconds / 1e3:.3f}s"
    if milliseconds >= 1:
        return f"{milliseconds:.3f}ms"
    return f"{milliseconds * 1e3:.3f}µs" if milliseconds else "0"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.2f}"


def _rate(value: float) -> str:
    return f"{value:.2f}"


_FIRST: Final[tuple[Line, ...]] = (
    ("Total requests", ("requests",), str, False),
    ("Concurrency", ("concurrency",), str, False),
    ("Duration (s)", ("total_duration_ms",), _seconds, False),
    ("Success", ("success",), str, False),
    ("Failed", ("failed",), str, False),
    ("Requests/sec", ("throughput_rps",), _rate, True),
    ("Avg latency", ("average_latency_ms",), duration, True),
    ("Min latency", ("min_latency_ms",), duration, True),
    ("Max latency", ("max_latency_ms",), duration, True),
    ("p90 latency", ("p90_latency_ms",), duration, True),
    ("p90 mean latency", ("p90_mean_latency_ms",), duration, True),
    ("p50 latency", ("p50_latency_ms",), duration, True),
    ("p99 latency", ("p99_latency_ms",), duration, True),
)
_STREAMS: Final[tuple[Line, ...]] = (
    ("Events", ("events",), str, False),
    ("Events/sec", ("events_per_second",), _rate, True),
    ("Longest stall", ("longest_stall_ms",), duration, True),
)


def rows(sides: Sequence[Figures], names: Sequence[str]) -> list[dict[str, str]]:
    """Returns rows of ``name``, each of ``names``, and with two sides (direct first) ``ratio``."""
    return [
        {
            "name": label,
            **{name: _cell(side, path, write) for name, side in zip(names, sides, strict=True)},
            "ratio": _ratio([_at(side, path) for side in sides]) if comparable else "",
        }
        for label, path, write, comparable in _lines(sides)
    ]


def code_rows(sides: Sequence[Figures], names: Sequence[str]) -> list[dict[str, str]]:
    codes = sorted({code for side in sides for code in side["response_codes"]})
    return [
        {
            "name": "Network error" if code == NETWORK_ERROR else code,
            **{
                name: str(side["response_codes"].get(code, 0))
                for name, side in zip(names, sides, strict=True)
            },
        }
        for code in codes
    ]


def ratios(direct: Figures, proxied: Figures) -> dict[str, float]:
    """Returns proxied ÷ direct for each plain figure that has a ratio in the table."""
    return {
        path[0]: round(proxied[path[0]] / direct[path[0]], 4)
        for _, path, _, comparable in _FIRST
        if comparable and direct[path[0]] and proxied[path[0]] is not None
    }


def _lines(sides: Sequence[Figures]) -> Iterator[Line]:
    yield from _FIRST
    yield from _spread_lines(sides, "Upstream latency", "upstream_latency_ms")
    yield from _spread_lines(sides, "Proxy latency", "proxy_latency_ms")
    yield from _spread_lines(sides, "Body transfer", "body_transfer_ms", ratio=True)
    if "events" in sides[0]:
        label = "Time to first event"
        yield from _spread_lines(sides, label, "time_to_first_event_ms", ratio=True)
        yield from _STREAMS


def _spread_lines(
    sides: Sequence[Figures], label: str, field: str, *, ratio: bool = False
) -> Iterator[Line]:
    if not any(side[field] for side in sides):
        yield (label, (field,), str, False)
        return
    for suffix, name in _SPREAD:
        yield (f"{label} {suffix}", (field, name), duration, ratio)


def _at(side: Any, path: Sequence[str]) -> Any:
    for name in path:
        side = None if side is None else side[name]
    return side


def _cell(side: Figures, path: Sequence[str], write: Callable[[Any], str]) -> str:
    value = _at(side, path)
    return "N/A" if value is None else write(value)


def _ratio(values: Sequence[float | None]) -> str:
    if len(values) != 2 or values[0] is None or values[1] is None or not values[0]:
        return ""
    return f"{values[1] / values[0]:.2f}"


_WIDTH: Final = 760
_HEIGHT: Final = 420
_LEFT: Final = 64
_RIGHT: Final = 24
_TOP: Final = 64
_BOTTOM: Final = 52
_COLOURS: Final = ("#d55e00", "#0072b2")  # distinct for the colour-blind, too
_MAX_POINTS: Final = 500
_SHARES: Final = (0, 25, 50, 75, 90, 100)


def svg(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """Draws ``series``: name → seconds of each request, at most two. An empty one is left out."""
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
    """A logarithmic axis, from the step (1, 2 or 5) below the least to the one above the most."""

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
    # Evenly thinned, but always with the slowest.
    step = max(1, len(values) // _MAX_POINTS)
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
