"""The table of ``manage.py bench``: a row per figure, a column per side, and their ratio.

The first rows, down to the proxy latency, are the ones that people compare between proxies and
versions: their names and order stay. The thing to get wrong: a ratio is proxied ÷ direct, so for
requests/s *less* than 1 is the cost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from proxy.cli.figures import NETWORK_ERROR

Figures = Mapping[str, Any]
#: Label; the value's path in the figures; how it is written; whether a ratio means something.
Line = tuple[str, tuple[str, ...], Callable[[Any], str], bool]

_SPREAD: Final = (
    ("avg", "avg"),
    ("min", "min"),
    ("max", "max"),
    ("p90", "p90"),
    ("p90 mean", "p90_mean"),
)


def duration(milliseconds: float) -> str:
    """In the unit in which it is at least 1: ``532.100µs``, ``6.300ms``, ``1.250s``."""
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
    """Cells by column: ``name``, each of ``names``, and with two sides (direct first) ``ratio``."""
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
    """Proxied ÷ direct, of each plain figure for which the table has a ratio."""
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
