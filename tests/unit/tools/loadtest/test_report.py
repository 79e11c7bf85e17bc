"""proxy/tools/loadtest/report.py: the arithmetic of the table and of results.json."""

import pytest

from proxy.tools.loadtest.connection import Sample
from proxy.tools.loadtest.report import figures, spread

REQUIRED = [
    "requests",
    "total_duration_ms",
    "average_latency_ms",
    "p50_latency_ms",
    "p90_latency_ms",
    "p99_latency_ms",
    "throughput_rps",
    "error_rate",
    "errors",
]


class Measured:
    """What figures() asks of a load."""

    connections = 2

    def __init__(self, samples: list[Sample], seconds: float) -> None:
        self.samples = samples
        self.seconds = seconds
        self.cpu_seconds = seconds / 4


def test_a_spread_of_ten() -> None:
    found = spread([number / 1000 for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1)])
    assert found == pytest.approx(
        {"avg": 5.5, "min": 1, "max": 10, "p50": 5, "p90": 9, "p90_mean": 5, "p99": 10}
    )


def test_spreads_of_one_and_none() -> None:
    one = spread([0.002])
    assert one is not None
    assert set(one.values()) == {2.0}
    assert spread([]) is None


def test_only_successes_have_latencies() -> None:
    load = Measured(
        [
            Sample(200, head=0.003, total=0.004, upstream=0.001),
            Sample(201, head=0.005, total=0.006),
            Sample(429, head=1, total=1, upstream=1, code="too_fast"),
            Sample(500, head=1, total=1),
            Sample(0, problem="Connection refused"),
        ],
        seconds=2.0,
    )
    found = figures(load, stream=False)  # type: ignore[arg-type]
    assert list(found)[: len(REQUIRED)] == REQUIRED
    assert found["average_latency_ms"] == pytest.approx(5)
    assert found["upstream_latency_ms"]["max"] == pytest.approx(1)
    assert found["proxy_latency_ms"]["max"] == pytest.approx(2)
    assert found["body_transfer_ms"]["avg"] == pytest.approx(1)
    assert (found["throughput_rps"], found["error_rate"]) == (2.5, 0.6)
    assert found["errors"] == {"HTTP 429 too_fast": 1, "HTTP 500": 1, "Connection refused": 1}
    assert found["response_codes"] == {"200": 1, "201": 1, "429": 1, "500": 1, "network_error": 1}
    assert (found["success"], found["failed"]) == (2, 3)
    assert found["client_cpu"] == 0.25
    assert "events" not in found


def test_streams() -> None:
    load = Measured(
        [
            Sample(200, total=1, events=3, first_event=0.25, stall=0.5),
            Sample(200, total=1, events=5, first_event=0.75, stall=0.125),
            Sample(200, total=1),
        ],
        seconds=4.0,
    )
    found = figures(load, stream=True)  # type: ignore[arg-type]
    assert (found["events"], found["events_per_second"]) == (8, 2.0)
    assert found["time_to_first_event_ms"]["avg"] == 500
    assert found["longest_stall_ms"] == 500


def test_nothing_was_measured() -> None:
    found = figures(Measured([], 0.0), stream=True)  # type: ignore[arg-type]
    assert (found["requests"], found["average_latency_ms"], found["error_rate"]) == (0, None, 0.0)
    assert (found["longest_stall_ms"], found["proxy_latency_ms"]) == (None, None)
