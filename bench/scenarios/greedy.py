"""A greedy neighbour: it pulls 1 GB as fast as it can, or asks for it and reads nothing.

What counts is what the others feel, 100 buffered requests a second, and whether the upstream is
held back: what it could write is what lies in buffers between it and a client that reads nothing.
"""

import asyncio
import gc
import time
from dataclasses import dataclass
from typing import Literal

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender, Running
from bench.figures import Figures
from bench.load.steady import Steady, steadily
from bench.load.wrk import LoadFailed
from bench.processes import Started, start_python
from bench.scenarios.base import Bench, request_for
from bench.upstreams import Upstream

SIZE = 1 << 30
PATH = "/v1/files/file-bench/content"
PER_SECOND = 100


@dataclass(frozen=True)
class Greedy:
    name: str = "greedy"
    title: str = "100 buffered requests/s beside one that takes 1 GB, or does not read it"
    columns: tuple[Column, ...] = (
        Column("alone_p99_ms", "p99 alone, ms"),
        Column("idle_moves_p99_ms", "moved by one that reads nothing, ms"),
        Column("pull_moves_p99_ms", "moved by one that pulls, ms"),
        Column("failed", "failed"),
        Column("idle_upstream_wrote_mb", "upstream could write, MB"),
        Column("idle_rss_growth_mb", "RSS growth unread, MB"),
        Column("pull_rss_growth_mb", "RSS growth pulled, MB"),
        Column("pull_mb_per_s", "pulled, MB/s"),
    )

    def takes(self, contender: Contender) -> bool:
        return contender.any_path

    def run(self, bench: Bench) -> Figures:
        seconds = 4 if bench.quick else 8
        upstream = upstreams.at_once(bench.folder, bench.load_cores)
        with (upstream.folder / "large").open("wb") as large:
            large.truncate(SIZE)  # a hole: no disk is read
        gc.disable()
        try:
            with bench.running(upstream.port) as running:
                return _measure(bench, running, upstream, seconds)
        finally:
            gc.enable()
            upstream.stop()


def _measure(bench: Bench, running: Running, upstream: Upstream, seconds: float) -> Figures:
    _others(running, seconds / 4)
    alone = _others(running, seconds)
    before = running.rss_bytes()

    neighbour = _neighbour(bench, running, "idle")
    beside_idle = _others(running, seconds)
    rss_idle = running.rss_bytes()
    neighbour.stop()
    written = _next_sent(upstream, 0)

    known = len(upstream.bytes_sent())
    neighbour = _neighbour(bench, running, "pull")
    beside_pull = _others(running, seconds)
    rss_pull = running.rss_bytes()
    neighbour.stop()
    received, took = neighbour.output().split()[-2:]
    _next_sent(upstream, known)
    return {
        "alone_p99_ms": alone.p99_ms,
        "idle_moves_p99_ms": beside_idle.p99_ms - alone.p99_ms,
        "pull_moves_p99_ms": beside_pull.p99_ms - alone.p99_ms,
        "failed": alone.failed + beside_idle.failed + beside_pull.failed,
        "idle_rss_growth_mb": (rss_idle - before) / 2**20,
        "pull_rss_growth_mb": (rss_pull - before) / 2**20,
        "idle_upstream_wrote_mb": written / 2**20,
        "pull_mb_per_s": int(received) / float(took) / 2**20,
    }


def _others(running: Running, seconds: float) -> Steady:
    request = request_for(running)
    return asyncio.run(steadily(running.port, request, per_second=PER_SECOND, seconds=seconds))


def _neighbour(bench: Bench, running: Running, how: Literal["pull", "idle"]) -> Started:
    where = [str(running.port), running.token, PATH, how]
    started = start_python(
        ["-m", "bench.load.greedy", *where], folder=bench.folder, cores=bench.load_cores, nice=10
    )
    time.sleep(1)  # it has sent its request, and buffers on the way have filled
    return started


def _next_sent(upstream: Upstream, known: int) -> int:
    """Bytes of the sending that ends next: its client has gone, and the upstream is to notice."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if len(sent := upstream.bytes_sent()) > known:
            return sent[known]
        time.sleep(0.05)
    raise LoadFailed("the upstream goes on sending to a client that has gone")
