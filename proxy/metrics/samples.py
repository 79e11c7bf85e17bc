"""Samples of one process, or of several merged: what is written, read, merged and shown.

``values`` maps each family to label values → a number, or for a histogram a list: the observations
in each bucket (not cumulative, the infinite bucket last), then their sum.

The counters of an ended process still count; its gauges do not.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Final

import orjson

from proxy.metrics.families import CATALOGUE

Labels = tuple[str, ...]

#: Version of the format. Samples with another version are not read.
FORMAT: Final = 1


class Samples:
    """Counts in dictionaries, on one thread: never fails and never waits."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[str, dict[Labels, Any]] = {}

    def count(self, name: str, labels: Labels = (), by: float = 1) -> None:
        try:
            self.values[name][labels] += by
        except KeyError:
            self.values.setdefault(name, {})[labels] = by

    def set(self, name: str, value: float, labels: Labels = ()) -> None:
        """Set a gauge, or a counter that is kept elsewhere."""
        self.values.setdefault(name, {})[labels] = value

    def replace(self, name: str, series: dict[Labels, float]) -> None:
        """Set all series of a gauge. Those that it had besides are gone."""
        self.values[name] = series

    def observe(self, name: str, value: float, labels: Labels) -> None:
        """Add one observation to a histogram, in seconds."""
        buckets = CATALOGUE[name].buckets
        try:
            cells = self.values[name][labels]
        except KeyError:
            cells = [0] * (len(buckets) + 1) + [0.0]
            self.values.setdefault(name, {})[labels] = cells
        cells[bisect_left(buckets, value)] += 1
        cells[-1] += value

    def dump(self) -> bytes:
        """As JSON, for :meth:`load`."""
        families = {name: list(series.items()) for name, series in self.values.items()}
        return orjson.dumps({"format": FORMAT, "families": families})

    @classmethod
    def load(cls, data: bytes) -> "Samples":
        """Read what :meth:`dump` wrote. What does not fit this version's families is left out.

        ValueError: it is no such thing.
        """
        read = orjson.loads(data)
        samples = cls()
        if not isinstance(read, dict) or read.get("format") != FORMAT:
            return samples
        for name, series in read["families"].items():
            family = CATALOGUE.get(name)
            if family is None:
                continue
            samples.values[name] = {
                tuple(labels): value
                for labels, value in series
                if len(labels) == len(family.labels) and _fits(value, len(family.buckets))
            }
        return samples


def bounded(samples: Samples, max_series: int) -> Samples:
    """`samples` with about `max_series` series per family. The oldest series stay as they are; the
    others are added up under ``other``, except for their first label."""
    kept = Samples()
    for name, series in samples.values.items():
        if len(series) <= max_series:
            kept.values[name] = series
            continue
        items = list(series.items())
        kept.values[name] = dict(items[:max_series])
        for labels, value in items[max_series:]:
            _add(kept, name, {(*labels[:1], *("other",) * len(labels[1:])): value})
    return kept


def merge(living: Iterable[Samples], ended: Iterable[Samples] = ()) -> Samples:
    """The sum of all samples; of ended processes only counters and histograms."""
    merged = Samples()
    gauges: dict[tuple[str, Labels], list[float]] = {}
    for samples in living:
        for name, series in samples.values.items():
            if CATALOGUE[name].kind == "gauge":
                for labels, value in series.items():
                    gauges.setdefault((name, labels), []).append(value)
            else:
                _add(merged, name, series)
    for samples in ended:
        for name, series in samples.values.items():
            if CATALOGUE[name].kind != "gauge":
                _add(merged, name, series)
    for (name, labels), values in gauges.items():
        merged.set(name, CATALOGUE[name].merge(values), labels)
    return merged


def _add(merged: Samples, name: str, series: dict[Labels, Any]) -> None:
    sums = merged.values.setdefault(name, {})
    for labels, value in series.items():
        before = sums.get(labels)
        if isinstance(value, list):
            zero = [0] * len(value)
            sums[labels] = [a + b for a, b in zip(before or zero, value, strict=True)]
        else:
            sums[labels] = (before or 0) + value


def _fits(value: object, buckets: int) -> bool:
    if not buckets:
        return isinstance(value, int | float)
    return isinstance(value, list) and len(value) == buckets + 2
