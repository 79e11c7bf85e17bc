"""``/stats``: sums and quantiles for people."""

import pytest

from proxy.metrics.samples import Samples
from proxy.metrics.stats_page import quantiles, summarise

DURATION = "proxy_request_duration_seconds"


def test_nothing_yet() -> None:
    summary = summarise(Samples())
    assert summary["requests"]["total"] == 0
    assert summary["latency_ms"]["total"] == {"p50": None, "p90": None, "p99": None}
    assert summary["events"]["sinks"] == {}
    assert summary["database_up"] is None


def test_sums() -> None:
    samples = Samples()
    name = "proxy_requests_total"
    samples.count(name, ("chat", "POST", "200", "completed"), 10)
    samples.count(name, ("chat", "POST", "429", "rejected"), 2)
    samples.count(name, ("models", "GET", "200", "completed"), 3)
    samples.count(name, ("status", "GET", "200", "completed"), 500)
    samples.count(name, ("management", "GET", "200", "completed"), 50)
    samples.count("proxy_tokens_total", ("prompt", "p1", "m"), 4)
    samples.count("proxy_tokens_total", ("prompt", "p2", "m"), 5)
    samples.set("proxy_workers", 2)
    samples.set("proxy_requests_in_flight", 6)
    samples.set("proxy_sink_pending_events", 7, ("jsonlines",))
    samples.set("proxy_events_dropped_total", 3, ("jsonlines",))
    summary = summarise(samples)
    requests = summary["requests"]
    # The proxy's own pages are not relayed requests.
    assert requests["total"] == 15
    assert requests["by_outcome"] == {"completed": 13, "rejected": 2}
    assert requests["by_status"] == {"200": 13, "429": 2}
    assert list(requests["by_route"].items()) == [("chat", 12), ("models", 3)]
    assert requests["in_flight"] == 6
    assert summary["tokens"] == {"prompt": 9}
    assert summary["workers"]["alive"] == 2
    assert summary["events"]["dropped"] == 3
    sink = {"pending": 7, "lag_seconds": None, "errors": 0, "dropped": 3}
    assert summary["events"]["sinks"] == {"jsonlines": sink}


def test_caches() -> None:
    samples = Samples()
    assert summarise(samples)["cache"]["item_count"] == 0
    samples.set("proxy_token_cache_entries", 4)
    samples.set("proxy_token_cache_lookups_total", 9, ("hit",))
    samples.set("proxy_cache_entries", 3)
    samples.set("proxy_cache_bytes", 300)
    samples.set("proxy_cache_limit_bytes", 1000)
    samples.set("proxy_flights", 1)
    samples.set("proxy_flight_readers", 2)
    for name, label in (
        ("proxy_cache_requests_total", "hit"),
        ("proxy_saved_tokens_total", "prompt"),
        ("proxy_cache_evictions_total", "expired"),
        ("proxy_cache_rejected_total", "status"),
        ("proxy_idempotent_total", "new"),
    ):
        samples.set(name, 5, (label,))
    summary = summarise(samples)
    assert summary["token_cache"] == {"item_count": 4, "hit": 9}
    assert summary["cache"] == {
        "item_count": 3,
        "bytes": 300,
        "limit_bytes": 1000,
        "requests": {"hit": 5},
        "saved_tokens": {"prompt": 5},
        "evictions": {"expired": 5},
        "rejected": {"status": 5},
        "flights": 1,
        "flight_readers": 2,
        "idempotent": {"new": 5},
    }


def test_providers() -> None:
    samples = Samples()
    name = "proxy_provider_requests_total"
    samples.count(name, ("default", "", "success"), 5)
    samples.count(name, ("first", "model-1", "error"), 2)
    samples.count(name, ("first", "model-2", "error"), 1)
    samples.count("proxy_fallbacks_total", ("smart", "server"), 2)
    samples.count("proxy_fallbacks_total", ("smart", "rate"), 1)
    samples.set("proxy_breaker_state", 0, ("first", "model-1"))
    samples.set("proxy_breaker_state", 2, ("first", "model-2"))
    samples.set("proxy_key_healthy", 1, ("first", "k1"))
    samples.set("proxy_key_healthy", 0, ("first", "k2"))
    samples.set("proxy_retry_budget_exhausted_total", 4, ("first",))
    summary = summarise(samples)
    assert summary["fallbacks"] == {"smart": 3}
    assert summary["providers"] == {
        "default": {
            "requests": {"success": 5},
            "breaker": None,
            "keys": {"total": 0, "healthy": 0},
            "retries_refused": 0,
        },
        "first": {
            "requests": {"error": 3},
            "breaker": "open",
            "keys": {"total": 2, "healthy": 1},
            "retries_refused": 4,
        },
    }


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # All in the bucket from 0.1 to 0.25: linear in it, over both routes.
        ([0.2] * 100, {"p50": 175.0, "p90": 235.0, "p99": 248.5}),
        ([0.2], {"p50": 175.0, "p90": 235.0, "p99": 248.5}),
        # Only known to be longer than the last bound.
        ([9999.0], {"p50": 600_000.0, "p90": 600_000.0, "p99": 600_000.0}),
        ([0.0] * 99 + [9999.0], {"p50": 2.525, "p90": 4.545, "p99": 5.0}),
    ],
)
def test_quantiles(seconds: list[float], expected: dict[str, float]) -> None:
    samples = Samples()
    for number, value in enumerate(seconds):
        samples.observe(DURATION, value, (("chat", "models")[number % 2],))
    assert quantiles(DURATION, samples) == pytest.approx(expected, abs=0.01)
