"""proxy/tools/loadtest/report.py: the rows that people compare stand in their order."""

from typing import Any

import pytest

from proxy.tools.loadtest.report import code_rows, duration, ratios, rows

FIRST = [
    "Total requests",
    "Concurrency",
    "Duration (s)",
    "Success",
    "Failed",
    "Requests/sec",
    "Avg latency",
    "Min latency",
    "Max latency",
    "p90 latency",
    "p90 mean latency",
    "p50 latency",
    "p99 latency",
]


def side(**changed: Any) -> dict[str, Any]:
    return {
        "requests": 100,
        "concurrency": 5,
        "total_duration_ms": 1250.0,
        "success": 99,
        "failed": 1,
        "throughput_rps": 80.0,
        "average_latency_ms": 6.3,
        "min_latency_ms": 0.5321,
        "max_latency_ms": 1500.0,
        "p50_latency_ms": 5.0,
        "p90_latency_ms": 8.0,
        "p99_latency_ms": 9.0,
        "p90_mean_latency_ms": 4.0,
        "upstream_latency_ms": None,
        "proxy_latency_ms": None,
        "body_transfer_ms": dict.fromkeys(("avg", "min", "max", "p90", "p90_mean"), 0.0),
        "response_codes": {"200": 99, "network_error": 1},
        **changed,
    }


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0, "0"),
        (0.0004, "0.400µs"),
        (0.5321, "532.100µs"),
        (1.0, "1.000ms"),
        (6.3, "6.300ms"),
        (1250.0, "1.250s"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


def test_one_side() -> None:
    spread = {"avg": 1.0, "min": 2.0, "max": 3.0, "p90": 4.0, "p90_mean": 5.0}
    found = rows([side(upstream_latency_ms=spread, proxy_latency_ms=spread)], ["proxied"])
    names = [row["name"] for row in found]
    parts = ["avg", "min", "max", "p90", "p90 mean"]
    assert names[:23] == [
        *FIRST,
        *(f"Upstream latency {part}" for part in parts),
        *(f"Proxy latency {part}" for part in parts),
    ]
    assert names[23:] == [f"Body transfer {part}" for part in parts]
    cells = {row["name"]: row["proxied"] for row in found}
    assert cells["Duration (s)"] == "1.25"
    assert cells["Requests/sec"] == "80.00"
    assert cells["Min latency"] == "532.100µs"
    assert cells["Proxy latency p90 mean"] == "5.000ms"
    assert {row["ratio"] for row in found} == {""}


def test_what_was_not_seen_is_one_row() -> None:
    cells = {row["name"]: row["it"] for row in rows([side(average_latency_ms=None)], ["it"])}
    assert (cells["Upstream latency"], cells["Proxy latency"]) == ("N/A", "N/A")
    assert cells["Avg latency"] == "N/A"
    assert "Events" not in cells


def test_two_sides_and_their_ratio() -> None:
    direct = side(average_latency_ms=4.2, throughput_rps=160.0, min_latency_ms=0.0)
    proxied = side(upstream_latency_ms={"avg": 1, "min": 1, "max": 1, "p90": 1, "p90_mean": 1})
    found = {row["name"]: row for row in rows([direct, proxied], ["direct", "proxied"])}
    assert found["Avg latency"] == {
        "name": "Avg latency",
        "direct": "4.200ms",
        "proxied": "6.300ms",
        "ratio": "1.50",
    }
    assert found["Requests/sec"]["ratio"] == "0.50"
    assert found["Min latency"]["ratio"] == ""
    assert found["Upstream latency avg"]["direct"] == "N/A"
    assert ratios(direct, proxied)["average_latency_ms"] == 1.5
    assert "min_latency_ms" not in ratios(direct, proxied)


def test_streams_have_rows_of_their_own() -> None:
    stream = {"events": 8, "events_per_second": 2.0, "longest_stall_ms": None}
    found = rows([side(**stream, time_to_first_event_ms=None)], ["it"])
    assert [(row["name"], row["it"]) for row in found[-4:]] == [
        ("Time to first event", "N/A"),
        ("Events", "8"),
        ("Events/sec", "2.00"),
        ("Longest stall", "N/A"),
    ]


def test_codes() -> None:
    other = side(response_codes={"429": 100})
    assert code_rows([side(), other], ["a", "b"]) == [
        {"name": "200", "a": "99", "b": "0"},
        {"name": "429", "a": "0", "b": "100"},
        {"name": "Network error", "a": "1", "b": "0"},
    ]
