"""Samples in the text formats of Prometheus.

Escaping, types and content types are those of Prometheus's own library. Its counters are not used:
they are per process, or cost each request a write to a file.
"""

import platform
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from proxy import __version__
from proxy.metrics.families import CATALOGUE, Family
from proxy.metrics.samples import Labels, Samples

_OPENMETRICS_TYPE: Final = "application/openmetrics-text"
_OPENMETRICS: Final = f"{_OPENMETRICS_TYPE}; version=1.0.0"


def render(samples: Samples, accept: str) -> tuple[bytes, str]:
    """Returns the page and its content type, in the format that the ``Accept`` header asks for.

    A client that accepts OpenMetrics gets version 1.0.0, any other the plain format.
    """
    # The header itself is not passed on: the library fails at versions that are no numbers.
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS_TYPE in accept else "")
    return encode(_Collector(samples)), content_type


class _Collector:
    """The interface of a registry that the library's encoders need."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("proxy_build", "Versions of the proxy and of Python.", value=build)
        for name, family in CATALOGUE.items():
            # Families without series are included, so that a dashboard can be written before
            # anything has happened.
            yield _FAMILIES[family.kind](family, self._samples.values.get(name, {}))


def _counter(family: Family, series: dict[Labels, Any]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in series.items():
        metric.add_metric(labels, value)
    return metric


def _gauge(family: Family, series: dict[Labels, Any]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in series.items():
        metric.add_metric(labels, value)
    return metric


def _histogram(family: Family, series: dict[Labels, Any]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = [*map(_bound, family.buckets), "+Inf"]
    for labels, value in series.items():
        buckets = list(zip(bounds, accumulate(value[:-1]), strict=True))
        metric.add_metric(labels, buckets=buckets, sum_value=value[-1])
    return metric


def _bound(value: float) -> str:
    return repr(float(value))


_FAMILIES: Final = {"counter": _counter, "gauge": _gauge, "histogram": _histogram}
