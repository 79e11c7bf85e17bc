"""50 event streams at a pace at which every event arrives by itself.

The streams start evenly spread over time, so that the first byte of one is not measured behind the
start of 49 others.
"""

import asyncio
from dataclasses import dataclass

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender
from bench.figures import Figures, percentile
from bench.load.connection import Response, connect
from bench.load.wrk import LoadFailed
from bench.scenarios.base import Bench, direct_request, request_for

STREAMS = 50
INTERVAL = 0.02  # 50 streams: 2,500 events/s, 400 µs apart


@dataclass(frozen=True)
class Events:
    name: str = "events"
    title: str = f"{STREAMS} event streams, {STREAMS / INTERVAL:,.0f} events/s"
    columns: tuple[Column, ...] = (
        Column("cpu_us_per_event", "CPU per event, µs"),
        Column("added_ttfb_p50_ms", "added time to first byte p50, ms"),
        Column("added_ttfb_p99_ms", "p99, ms"),
        Column("reads_per_event", "reads per event"),
        Column("events_lost", "usage events lost"),
    )

    def takes(self, contender: Contender) -> bool:
        return True

    def run(self, bench: Bench) -> Figures:
        events = 100 if bench.quick else 200
        each = 1 if bench.quick else 2
        upstream = upstreams.streaming(
            bench.folder, bench.load_cores, events=events, interval=INTERVAL
        )
        try:
            with bench.running(upstream.port) as running:
                request = request_for(running, stream=True)
                asyncio.run(streams(running.port, request, each=1, spread=0.5))
                running.settle()
                before, recorded = running.cpu_seconds(), running.recorded()
                proxied = asyncio.run(
                    streams(running.port, request, each=each, spread=events * INTERVAL)
                )
                lost = running.missing_events(recorded, len(proxied))
                used = running.cpu_seconds() - before
            direct = asyncio.run(
                streams(
                    upstream.port,
                    direct_request(upstream.port, stream=True),
                    each=each,
                    spread=events * INTERVAL,
                )
            )
        finally:
            upstream.stop()
        sent = STREAMS * each * events
        first = [response.first_byte * 1e3 for response in proxied]
        first_direct = [response.first_byte * 1e3 for response in direct]
        return {
            "cpu_us_per_event": used / sent * 1e6,
            "added_ttfb_p50_ms": percentile(first, 0.5) - percentile(first_direct, 0.5),
            "added_ttfb_p99_ms": percentile(first, 0.99) - percentile(first_direct, 0.99),
            "direct_ttfb_p50_ms": percentile(first_direct, 0.5),
            # 1: every event came by itself; below it, several came in one read.
            "events_lost": lost,
            "reads_per_event": sum(response.reads for response in proxied) / sent,
        }


async def streams(port: int, request: bytes, *, each: int, spread: float) -> list[Response]:
    """``each`` streams one after the other on each connection, starts over ``spread`` seconds."""

    async def one(number: int) -> list[Response]:
        await asyncio.sleep(number * spread / STREAMS)
        responses = []
        connection = await connect(port)
        for _ in range(each):
            if connection.closed:
                connection = await connect(port)
            responses.append(await connection.ask(request))
        connection.close()
        return responses

    per_connection = await asyncio.gather(*(one(number) for number in range(STREAMS)))
    responses = [response for some in per_connection for response in some]
    broken = sum(not (a.complete and a.done_seen and a.status == 200) for a in responses)
    if broken:
        raise LoadFailed(f"{broken} of {len(responses)} streams did not come to their end")
    return responses
