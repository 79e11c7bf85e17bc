"""Buffered chats that are relayed, that miss the response cache, and that hit it."""

from dataclasses import dataclass, replace

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender, Running
from bench.contenders.ours import caching_token
from bench.figures import Figures
from bench.load.message import chat
from bench.load.wrk import Throughput, run_wrk
from bench.scenarios.base import Bench
from bench.scenarios.buffered import CONNECTIONS

#: Asks the upstream each time, and stores what it sends: all of a miss but the look-up.
_ANEW = {"Cache-Control": "no-cache"}


@dataclass(frozen=True)
class Cached:
    name: str = "cached"
    title: str = f"Buffered chats and the response cache, {CONNECTIONS} connections"
    columns: tuple[Column, ...] = (
        Column("cpu_us_per_request", "CPU per relayed request, µs"),
        Column("cpu_us_per_miss", "per miss, µs"),
        Column("cpu_us_per_hit", "per hit, µs"),
        Column("hit_to_relayed", "hit to relayed"),
        Column("hits_per_s", "hits/s"),
        Column("hit_p99_ms", "hit p99, ms"),
        Column("events_lost", "events lost"),
    )

    def takes(self, contender: Contender) -> bool:
        """Only ours is set up with a cache."""
        return contender.name == "ours"

    def run(self, bench: Bench) -> Figures:
        seconds = 4 if bench.quick else 8
        upstream = upstreams.at_once(bench.folder, bench.load_cores)
        try:
            with bench.running(upstream.port) as running:
                caching = replace(running, token=caching_token(running.port))
                anew = replace(caching, headers={**caching.headers, **_ANEW})
                relayed, lost, _ = _load(bench, running, seconds)
                missed, more, _ = _load(bench, anew, seconds)
                hit, most, load = _load(bench, caching, seconds)
        finally:
            upstream.stop()
        return {
            "cpu_us_per_request": relayed,
            "cpu_us_per_miss": missed,
            "cpu_us_per_hit": hit,
            "hit_to_relayed": hit / relayed,
            "hits_per_s": load.requests / load.seconds,
            "hit_p99_ms": load.p99_ms,
            "events_lost": lost + more + most,
        }


def _load(bench: Bench, running: Running, seconds: int) -> tuple[float, int, Throughput]:
    """Return the CPU time of one request in µs, how many events are missing, and the load."""
    request = chat(running.port, running.token, running.headers)
    run_wrk(bench.folder, running.port, request, connections=CONNECTIONS, seconds=seconds // 2)
    running.settle()
    before, recorded = running.cpu_seconds(), running.recorded()
    load = run_wrk(bench.folder, running.port, request, connections=CONNECTIONS, seconds=seconds)
    lost = running.missing_events(recorded, load.requests)
    return (running.cpu_seconds() - before) / load.requests * 1e6, lost, load
