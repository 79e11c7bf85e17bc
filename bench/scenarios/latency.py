"""One connection, in turns with the upstream itself: what the way through the proxy adds."""

import gc
from dataclasses import dataclass

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender
from bench.figures import Figures, percentile
from bench.load.blocking import BlockingClient
from bench.scenarios.base import Bench, direct_request, request_for

TURN = 50


@dataclass(frozen=True)
class Latency:
    name: str = "latency"
    title: str = "One connection, in turns with direct"
    columns: tuple[Column, ...] = (
        Column("added_p50_ms", "added p50, ms"),
        Column("added_p99_ms", "added p99, ms"),
        Column("longest_ms", "longest, ms"),
        Column("cpu_us_per_request", "CPU per request, µs"),
        Column("direct_p50_ms", "direct p50, ms"),
        Column("events_lost", "events lost"),
    )

    def takes(self, contender: Contender) -> bool:
        return True

    def run(self, bench: Bench) -> Figures:
        turns = 10 if bench.quick else 60
        direct: list[float] = []
        proxied: list[float] = []
        upstream = upstreams.at_once(bench.folder, bench.load_cores)
        gc.disable()
        try:
            with (
                bench.running(upstream.port) as running,
                BlockingClient(upstream.port, direct_request(upstream.port)) as to_upstream,
                BlockingClient(running.port, request_for(running)) as to_proxy,
            ):
                for client in (to_upstream, to_proxy):
                    for _ in range(4 * TURN):
                        client.ask()
                before, recorded = running.cpu_seconds(), running.recorded()
                for _ in range(turns):
                    direct += [to_upstream.ask() for _ in range(TURN)]
                    proxied += [to_proxy.ask() for _ in range(TURN)]
                lost = running.missing_events(recorded, len(proxied))
                used = running.cpu_seconds() - before
        finally:
            gc.enable()
            upstream.stop()
        return {
            "direct_p50_ms": percentile(direct, 0.5),
            "added_p50_ms": percentile(proxied, 0.5) - percentile(direct, 0.5),
            "added_p99_ms": percentile(proxied, 0.99) - percentile(direct, 0.99),
            "longest_ms": max(proxied),
            "events_lost": lost,
            # More than under load: nothing that is done once for many requests is shared here.
            "cpu_us_per_request": used / len(proxied) * 1e6,
        }
