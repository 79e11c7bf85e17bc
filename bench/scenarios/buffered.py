"""Buffered chats over 50 connections, as many as the contender can answer."""

from dataclasses import dataclass

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender
from bench.figures import Figures
from bench.load.wrk import run_wrk
from bench.scenarios.base import Bench, request_for

CONNECTIONS = 50


@dataclass(frozen=True)
class Buffered:
    name: str = "buffered"
    title: str = f"Buffered chats, {CONNECTIONS} connections"
    columns: tuple[Column, ...] = (
        Column("requests_per_s", "requests/s"),
        Column("cpu_us_per_request", "CPU per request, µs"),
        Column("p50_ms", "p50, ms"),
        Column("p99_ms", "p99, ms"),
        Column("longest_ms", "longest, ms"),
        Column("events_lost", "events lost"),
    )

    def takes(self, contender: Contender) -> bool:
        return True

    def run(self, bench: Bench) -> Figures:
        seconds = 4 if bench.quick else 8
        upstream = upstreams.at_once(bench.folder, bench.load_cores)
        try:
            with bench.running(upstream.port) as running:
                request = request_for(running)
                port, many = running.port, CONNECTIONS
                run_wrk(bench.folder, port, request, connections=many, seconds=seconds // 2)
                running.settle()
                before, recorded = running.cpu_seconds(), running.recorded()
                load = run_wrk(bench.folder, port, request, connections=many, seconds=seconds)
                lost = running.missing_events(recorded, load.requests)
                used = running.cpu_seconds() - before
        finally:
            upstream.stop()
        return {
            "requests_per_s": load.requests / load.seconds,
            "cpu_us_per_request": used / load.requests * 1e6,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
            "longest_ms": load.longest_ms,
            "events_lost": lost,
        }
