"""proxy/cli/bench.py: the real proxy is measured, and what fails is said."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import orjson
import pytest

from proxy.cli.server import ROOT
from tests.support.cli_runner import Run
from tests.support.fake_upstream import Upstream
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.wait import wait_until

Bench = Callable[..., tuple[int, str]]

FIELDS = {
    "base_url",
    "endpoint",
    "requests",
    "concurrency",
    "total_duration_ms",
    "average_latency_ms",
    "p50_latency_ms",
    "p90_latency_ms",
    "p99_latency_ms",
    "throughput_rps",
    "error_rate",
    "errors",
}


@pytest.fixture
def bench(
    run: Run, proxy: ProxyServer, upstream: Upstream, token: str, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """Exit code and output; neither secret may ever be in it."""
    upstream.reset()
    monkeypatch.setenv("PROXY_TOKEN", token)
    monkeypatch.setenv("PROXY_BASE_URL", proxy.url)
    monkeypatch.setenv("OPENAI_API_KEY", UPSTREAM_KEY)

    def invoke(*arguments: str) -> tuple[int, str]:
        result = run("bench", *arguments)
        assert token not in result.output
        assert UPSTREAM_KEY not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output

    return invoke


def results(path: Path = Path("results.json")) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def cells(output: str) -> dict[str, list[str]]:
    """A row's name → its other cells."""
    split = (re.split(r"\s{2,}", line.strip()) for line in output.splitlines())
    return {parts[0]: parts[1:] for parts in split}


def test_the_table_and_the_file(bench: Bench, proxy: ProxyServer, upstream: Upstream) -> None:
    code, output = bench("-r", "40", "-c", "4", "--warmup", "3", "--output", "results.json")
    assert code == 0, output
    assert len(upstream.received) == 43
    row = cells(output)
    assert (row["Total requests"], row["Success"], row["Failed"]) == (["40"], ["40"], ["0"])
    assert row["Concurrency"] == ["4"]
    assert row["200"] == ["40"]
    found = results()
    assert set(found) >= FIELDS
    assert (found["base_url"], found["endpoint"]) == (proxy.url, "/v1/chat/completions")
    assert (found["requests"], found["error_rate"], found["errors"]) == (40, 0.0, {})
    assert found["connections"] == 4
    assert 0 < found["min_latency_ms"] <= found["p50_latency_ms"] <= found["p90_latency_ms"]
    assert found["p90_latency_ms"] <= found["p99_latency_ms"] <= found["max_latency_ms"]
    # The parts, each from another clock, add up to the whole.
    parts = ("upstream_latency_ms", "proxy_latency_ms", "body_transfer_ms")
    assert sum(found[part]["avg"] for part in parts) == pytest.approx(found["average_latency_ms"])
    assert all(found[part]["min"] >= 0 for part in parts)


def test_upstream_and_proxy_are_distinguished(bench: Bench, upstream: Upstream) -> None:
    """What the upstream takes longer is the upstream's, not the proxy's."""

    def open_later() -> None:
        for count in range(1, 4):
            wait_until(lambda count=count: len(upstream.received) == count)  # type: ignore[misc]
            gevent.sleep(0.2)
            upstream.gate.release()

    opening = gevent.spawn(open_later)
    code, output = bench(
        *("--endpoint", "/v1/behave/gated-json", "-r", "3", "--output", "results.json")
    )
    opening.get()
    assert code == 0, output
    assert results()["upstream_latency_ms"]["min"] >= 200
    assert results()["proxy_latency_ms"]["p50"] < 200


def test_streams(bench: Bench, upstream: Upstream) -> None:
    code, output = bench("--stream", "-r", "6", "-c", "2", "--output", "results.json")
    assert code == 0, output
    assert all(b'"stream":true' in request.body for request in upstream.received)
    assert results()["events"] == 6 * 5  # with [DONE]
    assert results()["time_to_first_event_ms"]["avg"] > 0
    row = cells(output)
    assert float(row["Events/sec"][0]) > 0
    assert {"Time to first event p90", "Longest stall"} <= set(row)


def test_direct_and_proxied_in_turns(bench: Bench, proxy: ProxyServer, upstream: Upstream) -> None:
    code, output = bench(
        *("--compare-url", upstream.url, "-r", "20", "-c", "1", "--method", "get"),
        *("--endpoint", "/v1/models", "--output", "results.json", "--plot", "picture.svg"),
    )
    assert code == 0, output
    assert "Wrote results.json." in output
    assert "Wrote picture.svg." in output
    assert len(upstream.received) == 40
    # Each side was asked with its own bearer; the upstream sees the project's key from both.
    assert {value for r in upstream.received for value in r.values("Authorization")} == {
        f"Bearer {UPSTREAM_KEY}"
    }
    row = cells(output)
    assert (row["Total requests"], row["200"]) == (["20", "20"], ["20", "20"])
    assert row["Upstream latency avg"][0] == "N/A"
    found = results()
    assert (found["base_url"], found["compare"]["base_url"]) == (proxy.url, upstream.url)
    ratio = found["average_latency_ms"] / found["compare"]["average_latency_ms"]
    assert found["ratio"]["average_latency_ms"] == pytest.approx(ratio, abs=1e-3)
    assert row["Avg latency"][2] == f"{ratio:.2f}"
    picture = Path("picture.svg").read_text()
    assert picture.count("<polyline") == 2
    assert "direct: p50" in picture


def test_one_side_is_drawn_beside_its_upstream(bench: Bench) -> None:
    assert bench("-r", "3", "--plot", "picture.svg")[0] == 0
    assert Path("picture.svg").read_text().count("<polyline") == 2


def test_what_fails_is_counted_and_named(bench: Bench, token: str) -> None:
    wrong = "sk-0123456789abcdefABCDEF"
    code, output = bench("-r", "3", "--token", wrong, "--output", "results.json")
    assert code == 1
    assert wrong not in output
    found = results()
    assert (found["failed"], found["error_rate"], found["average_latency_ms"]) == (3, 1.0, None)
    (reason,) = found["errors"]
    assert reason.startswith("HTTP 401 ")
    assert f"3 × {reason}" in output
    assert cells(output)["401"] == ["3"]
    code, output = bench("-r", "2", "--endpoint", "/v1/behave/cut-length")
    assert code == 1
    assert cells(output)["Network error"] == ["2"]


def test_an_address_without_a_server(bench: Bench) -> None:
    code, output = bench("--base-url", "http://127.0.0.1:9")
    assert code == 1
    assert "no response from http://127.0.0.1:9: Connection refused" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["-r", "0"],
        ["-c", "x"],
        ["--base-url", "nowhere"],
        ["--compare-url", "http://me:secret@host"],
        ["--endpoint", "models"],
        ["--json", "{"],
        ["--method", "GET /"],
        ["--token", "a b"],
        ["--output", "/does/not/exist/results.json"],
        ["--compare-url", "http://127.0.0.1:9", "--compare-token-env", "NOT_SET"],
        ["--plot", "picture.png"],
        ["--nothing"],
    ],
)
def test_wrong_usage(bench: Bench, arguments: list[str], upstream: Upstream) -> None:
    code, output = bench(*arguments)
    assert code == 2, output
    assert "secret" not in output
    assert not upstream.received


def test_no_token(run: Run) -> None:
    result = run("bench", "--token-env", "MINE")
    assert (result.exit_code, "set MINE" in result.output) == (2, True)


def test_ctrl_c_prints_what_was_measured(
    proxy: ProxyServer, upstream: Upstream, token: str, tmp_path: Path
) -> None:
    upstream.reset()
    for _ in range(3):
        upstream.gate.release()
    process = subprocess.Popen(
        [
            *(sys.executable, str(ROOT / "manage.py"), "bench", "--base-url", proxy.url),
            *("--endpoint", "/v1/behave/gated-json", "-r", "10", "--output", "results.json"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PROXY_TOKEN": token},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        # The fourth waits, so three have been answered.
        wait_until(lambda: len(upstream.received) == 4)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert cells(output)["Total requests"] == ["3"]
    assert "Interrupted" in output
    assert "Traceback" not in output
    assert results(tmp_path / "results.json")["interrupted"] is True
