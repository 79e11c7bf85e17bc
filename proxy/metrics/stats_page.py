"""The page ``/stats``: totals of all workers since the server's start, as JSON for people.

Quantiles are estimated from histograms as Prometheus does: linearly within a bucket.
"""

from itertools import accumulate
from typing import Any, Final

from proxy.metrics.families import CATALOGUE
from proxy.metrics.samples import Labels, Samples

#: Routes of the proxy's own pages, which are no relayed requests.
_OWN = frozenset({"management", "status"})


def summarise(samples: Samples) -> dict[str, Any]:
    """Returns the page's fields: milliseconds, bytes, counts; None for what is not measured."""

    def series(name: str) -> dict[Labels, Any]:
        return samples.values.get(name, {})

    def total(name: str) -> float | None:
        values = series(name).values()
        return sum(values) if values else None

    relayed = {k: v for k, v in series("proxy_requests_total").items() if k[0] not in _OWN}
    dropped = series("proxy_events_dropped_total")
    sinks = series("proxy_sink_pending_events")
    return {
        "requests": {
            "total": sum(relayed.values()),
            "by_outcome": _by(3, relayed),
            "by_status": _by(2, relayed),
            "by_route": _by(0, relayed),
            "in_flight": total("proxy_requests_in_flight"),
            "rate_limited": _by(0, series("proxy_rate_limited_total")),
            "errors": _by(0, series("proxy_errors_total")),
        },
        "latency_ms": {
            "total": quantiles("proxy_request_duration_seconds", samples),
            "upstream": quantiles("proxy_upstream_duration_seconds", samples),
            "first_byte": quantiles("proxy_time_to_first_byte_seconds", samples),
            "overhead": quantiles("proxy_overhead_seconds", samples),
        },
        "providers": _providers(samples),
        "fallbacks": _by(0, series("proxy_fallbacks_total")),
        "tokens": _by(0, series("proxy_tokens_total")),
        "bytes": _by(0, series("proxy_body_bytes_total")),
        "token_cache": {
            "item_count": total("proxy_token_cache_entries") or 0,
            **_by(0, series("proxy_token_cache_lookups_total")),
        },
        "cache": {
            "item_count": total("proxy_cache_entries") or 0,
            "bytes": total("proxy_cache_bytes") or 0,
            "limit_bytes": total("proxy_cache_limit_bytes") or 0,
            "requests": _by(0, series("proxy_cache_requests_total")),
            "saved_tokens": _by(0, series("proxy_saved_tokens_total")),
            "evictions": _by(0, series("proxy_cache_evictions_total")),
            "rejected": _by(0, series("proxy_cache_rejected_total")),
            "flights": total("proxy_flights") or 0,
            "flight_readers": total("proxy_flight_readers") or 0,
            "idempotent": _by(0, series("proxy_idempotent_total")),
        },
        "upstream_connections": {
            "idle": total("proxy_upstream_idle_connections"),
            **_by(0, series("proxy_upstream_connections_total")),
        },
        "events": {
            "queued": total("proxy_event_queue_depth"),
            "dropped": sum(dropped.values()),
            "spool_bytes": total("proxy_spool_bytes"),
            "sinks": {
                sink: {
                    "pending": pending,
                    "lag_seconds": series("proxy_sink_lag_seconds").get((sink,)),
                    "errors": series("proxy_sink_errors_total").get((sink,), 0),
                    "dropped": dropped.get((sink,), 0),
                }
                for (sink,), pending in sorted(sinks.items())
            },
        },
        "revocation_lag_seconds": total("proxy_revocation_lag_seconds"),
        "database_up": _switch(total("proxy_database_up")),
        "workers": {
            "alive": total("proxy_workers"),
            "expected": total("proxy_workers_expected"),
            "started": series("proxy_process_starts_total").get(("worker",), 0),
        },
    }


_BREAKER_STATES: Final = ("closed", "half_open", "open")


def _providers(samples: Samples) -> dict[str, Any]:
    """Each provider's attempts by status, its worst breaker, and its keys."""

    def of(name: str, provider: str) -> dict[Labels, Any]:
        series = samples.values.get(name, {})
        return {labels: value for labels, value in series.items() if labels[0] == provider}

    names = {
        labels[0]
        for name in (
            "proxy_provider_requests_total",
            "proxy_retry_budget_exhausted_total",
            "proxy_key_healthy",
        )
        for labels in samples.values.get(name, {})
    }
    found = {}
    for name in sorted(names):
        breakers = of("proxy_breaker_state", name).values()
        keys = of("proxy_key_healthy", name).values()
        found[name] = {
            "requests": _by(2, of("proxy_provider_requests_total", name)),
            "breaker": _BREAKER_STATES[int(max(breakers))] if breakers else None,
            "keys": {"total": len(keys), "healthy": int(sum(keys))},
            "retries_refused": sum(of("proxy_retry_budget_exhausted_total", name).values()),
        }
    return found


def _switch(value: float | None) -> bool | None:
    return None if value is None else bool(value)


def quantiles(name: str, samples: Samples) -> dict[str, float | None]:
    """p50, p90 and p99 of all series of a histogram together, in milliseconds."""
    bounds = CATALOGUE[name].buckets
    counts = [0] * (len(bounds) + 1)
    for cells in samples.values.get(name, {}).values():
        counts = [a + b for a, b in zip(counts, cells[:-1], strict=True)]
    return {f"p{percent}": _quantile(percent / 100, counts, bounds) for percent in (50, 90, 99)}


def _quantile(part: float, counts: list[int], bounds: tuple[float, ...]) -> float | None:
    upto = list(accumulate(counts))
    if not upto[-1]:
        return None
    rank = part * upto[-1]
    index = next(i for i, count in enumerate(upto) if count >= rank)
    if index == len(bounds):
        return bounds[-1] * 1e3  # the last finite bound: the value is larger
    low = bounds[index - 1] if index else 0.0
    share = (rank - (upto[index] - counts[index])) / counts[index]
    return round((low + (bounds[index] - low) * share) * 1e3, 3)


def _by(position: int, series: dict[Labels, Any]) -> dict[str, float]:
    """`series` summed by the label at `position`, largest first."""
    sums: dict[str, float] = {}
    for labels, value in series.items():
        sums[labels[position]] = sums.get(labels[position], 0) + value
    return dict(sorted(sums.items(), key=_largest_first))


def _largest_first(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]
