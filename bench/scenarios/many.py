"""2,000 slow streams on one worker, and 100 new buffered requests a second beside them.

The buffered requests are sent at fixed times, whether or not the ones before have been answered: a
stall hits all that fall into it, not only the first.
"""

import asyncio
import gc
from dataclasses import dataclass

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender, Running
from bench.figures import Figures, percentile
from bench.load.connection import Response, connect
from bench.load.steady import steadily
from bench.scenarios.base import Bench, request_for

INTERVAL = 1.0  # seconds between two events of a stream
PER_SECOND = 200  # new streams; all 2,000 are open after ten seconds
BUFFERED_PER_SECOND = 100
HOLD = 8  # seconds in which all of them are open


@dataclass(frozen=True)
class Many:
    name: str = "many"
    title: str = "2,000 slow streams beside 100 buffered requests/s"
    columns: tuple[Column, ...] = (
        Column("streams", "streams"),
        Column("dropped", "dropped"),
        Column("ttfb_p50_ms", "time to first byte p50, ms"),
        Column("ttfb_p99_ms", "p99, ms"),
        Column("buffered_p99_ms", "buffered p99, ms"),
        Column("buffered_failed", "failed"),
        Column("kb_per_stream", "KB per stream"),
        Column("idle_rss_mb", "idle RSS, MB"),
    )

    def takes(self, contender: Contender) -> bool:
        return True

    def run(self, bench: Bench) -> Figures:
        streams = 400 if bench.quick else 2000
        opening = streams / PER_SECOND
        events = round((opening + HOLD) / INTERVAL) + 1
        upstream = upstreams.streaming(
            bench.folder, bench.load_cores, events=events, interval=INTERVAL
        )
        gc.disable()
        try:
            with bench.running(upstream.port) as running:
                return asyncio.run(_measure(running, streams, opening))
        finally:
            gc.enable()
            upstream.stop()


async def _measure(running: Running, streams: int, opening: float) -> Figures:
    idle = running.rss_bytes()
    request = request_for(running)
    # What one request loads for the first time is not the memory of a stream.
    await steadily(running.port, request, per_second=BUFFERED_PER_SECOND, seconds=1)
    before = running.rss_bytes()
    streaming = request_for(running, stream=True)
    opened = [
        asyncio.create_task(_stream(running.port, streaming, number / PER_SECOND))
        for number in range(streams)
    ]
    buffered = asyncio.create_task(
        steadily(
            running.port, request, per_second=BUFFERED_PER_SECOND, seconds=opening + HOLD * 0.75
        )
    )
    await asyncio.sleep(opening + HOLD * 0.75)
    full = running.rss_bytes()
    responses = await asyncio.gather(*opened)
    beside = await buffered
    whole = [response for response in responses if response.complete and response.done_seen]
    first = [response.first_byte * 1e3 for response in whole]
    return {
        "streams": len(responses),
        "dropped": len(responses) - len(whole),
        "ttfb_p50_ms": percentile(first, 0.5),
        "ttfb_p99_ms": percentile(first, 0.99),
        "buffered_p50_ms": beside.p50_ms,
        "buffered_p99_ms": beside.p99_ms,
        "buffered_failed": beside.failed,
        "kb_per_stream": (full - before) / streams / 1024,
        "idle_rss_mb": idle / 2**20,
    }


async def _stream(port: int, request: bytes, after: float) -> Response:
    await asyncio.sleep(after)
    try:
        connection = await connect(port)
    except OSError:
        return Response()
    try:
        return await asyncio.wait_for(connection.ask(request), 120)
    except TimeoutError:
        return Response()
    finally:
        connection.close()
