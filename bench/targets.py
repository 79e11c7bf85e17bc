"""What we want to reach, beside what was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from bench.figures import Figures

#: Contender → its medians of one scenario.
ByContender = Mapping[str, Figures]


@dataclass(frozen=True)
class Target:
    """``value`` of ours, at most ``limit``. A key that is missing means: not measured."""

    scenario: str
    text: str
    limit: float
    unit: str
    value: Callable[[ByContender], float]

    def verdict(self, measured: ByContender) -> str:
        """`1.42 × (at most 1.6 ×): met`, `… not met` or `not measured`."""
        try:
            value = self.value(measured)
        except (KeyError, ZeroDivisionError):
            return "not measured"
        verdict = "met" if value <= self.limit else "not met"
        return f"{value:.3g} {self.unit}".rstrip() + f": {verdict}"


def _ours(figure: str) -> Callable[[ByContender], float]:
    return lambda measured: measured["ours"][figure]


def _times_floor(figure: str) -> Callable[[ByContender], float]:
    return lambda measured: measured["ours"][figure] / measured["floor"][figure]


def _ours_ratio(figure: str, to: str) -> Callable[[ByContender], float]:
    return lambda measured: measured["ours"][figure] / measured["ours"][to]


TARGETS: Final = (
    Target("buffered", "CPU per request", 1.6, "× floor", _times_floor("cpu_us_per_request")),
    Target("buffered", "longest request", 1.5, "× floor", _times_floor("longest_ms")),
    Target("latency", "added p50", 0.35, "ms", _ours("added_p50_ms")),
    Target("latency", "added p99", 0.7, "ms", _ours("added_p99_ms")),
    Target("events", "CPU per event", 1.15, "× floor", _times_floor("cpu_us_per_event")),
    Target("events", "added time to first byte, p50", 1, "ms", _ours("added_ttfb_p50_ms")),
)
