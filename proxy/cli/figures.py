"""What a benchmark says about one side: the fields of ``results.json``, of which the table is made.

Latencies are of successful (2xx, complete) answers only, in milliseconds; None where there is none.
The thing to get wrong: ``p90_mean`` is the mean of the fastest 90 %, not of the slowest 10 %.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from proxy.cli.exchange import Sample
from proxy.cli.load import Load

NETWORK_ERROR: Final = "network_error"


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Average, extremes and percentiles (nearest rank) in milliseconds; None of nothing."""
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
    """Everything that was measured on one side; the first names are fixed, more may follow."""
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
    """The index of the nearest rank. Rounded first: 0.9 × 10 must not become the tenth."""
    return max(0, math.ceil(round(share * len(values), 9)) - 1)


def _reason(sample: Sample) -> str:
    return sample.problem or f"HTTP {sample.status} {sample.code}".rstrip()


def _status(sample: Sample) -> str:
    return str(sample.status) if sample.status else NETWORK_ERROR
