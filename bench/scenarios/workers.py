"""CPU per request with two workers against one.

Both times the contender may use both cores, and the load takes its share of one: figures of this
scenario compare with each other, not with those of the others.
"""

from dataclasses import dataclass

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender
from bench.figures import Figures
from bench.load.wrk import LoadFailed, run_wrk
from bench.scenarios.base import Bench, request_for
from bench.scenarios.buffered import CONNECTIONS


@dataclass(frozen=True)
class Workers:
    name: str = "workers"
    title: str = "Two workers against one, load on the same cores"
    columns: tuple[Column, ...] = (
        Column("one_cpu_us_per_request", "CPU per request with one, µs"),
        Column("two_cpu_us_per_request", "with two, µs"),
        Column("two_requests_per_s", "requests/s with two"),
    )

    def takes(self, contender: Contender) -> bool:
        return contender.name in {"raw", "floor", "ours"}

    def run(self, bench: Bench) -> Figures:
        seconds = 2 if bench.quick else 8
        upstream = upstreams.at_once(bench.folder, bench.load_cores)
        try:
            one, _ = _measure(bench, upstream.port, 1, seconds)
            two, per_second = _measure(bench, upstream.port, 2, seconds)
        finally:
            upstream.stop()
        return {
            "one_cpu_us_per_request": one,
            "two_cpu_us_per_request": two,
            "two_requests_per_s": per_second,
        }


def _measure(bench: Bench, upstream: int, workers: int, seconds: int) -> tuple[float, float]:
    """CPU µs per request, requests per second."""
    folder = bench.folder / str(workers)
    folder.mkdir()
    cores = bench.contender_cores | bench.load_cores
    with bench.in_folder(folder).running(upstream, workers=workers, cores=cores) as running:
        request = request_for(running)
        port, many = running.port, CONNECTIONS
        run_wrk(folder, port, request, connections=many, seconds=seconds // 2)
        running.settle()
        before, recorded = running.cpu_seconds(), running.recorded()
        load = run_wrk(folder, port, request, connections=many, seconds=seconds)
        lost = running.missing_events(recorded, load.requests)
        used = running.cpu_seconds() - before
    if lost:
        raise LoadFailed(f"{lost} of {load.requests} requests have no usage event")
    return used / load.requests * 1e6, load.requests / load.seconds
