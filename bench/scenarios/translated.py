"""The streams of :mod:`bench.scenarios.events`, relayed, and translated from Anthropic's."""

import asyncio
from dataclasses import dataclass, replace

from bench import upstreams
from bench.columns import Column
from bench.contenders.base import Contender, Running
from bench.contenders.ours import claude_token
from bench.figures import Figures
from bench.scenarios.base import Bench, request_for
from bench.scenarios.events import INTERVAL, STREAMS, streams


@dataclass(frozen=True)
class Translated:
    name: str = "translated"
    title: str = f"{STREAMS} event streams of Anthropic's, {STREAMS / INTERVAL:,.0f} events/s"
    columns: tuple[Column, ...] = (
        Column("cpu_us_per_event", "CPU per translated event, µs"),
        Column("cpu_us_per_relayed_event", "per relayed event, µs"),
        Column("translated_to_relayed", "ratio"),
        Column("events_lost", "usage events lost"),
    )

    def takes(self, contender: Contender) -> bool:
        """Only ours is set up with a provider of Anthropic's."""
        return contender.name == "ours"

    def run(self, bench: Bench) -> Figures:
        events = 100 if bench.quick else 200
        each = 1 if bench.quick else 2
        relayed = upstreams.streaming(
            bench.folder, bench.load_cores, events=events, interval=INTERVAL
        )
        try:
            claude = upstreams.streaming(
                bench.folder, bench.load_cores, events=events, interval=INTERVAL, server="messages"
            )
            try:
                with bench.running(relayed.port) as running:
                    plain, lost = _cpu_us(running, events, each)
                    token = claude_token(running.port, claude.port)
                    made, more = _cpu_us(replace(running, token=token), events, each)
            finally:
                claude.stop()
        finally:
            relayed.stop()
        return {
            "cpu_us_per_event": made,
            "cpu_us_per_relayed_event": plain,
            "translated_to_relayed": made / plain,
            "events_lost": lost + more,
        }


def _cpu_us(running: Running, events: int, each: int) -> tuple[float, int]:
    """Return the CPU time of one event, in µs, and how many usage events are missing."""
    request = request_for(running, stream=True)
    asyncio.run(streams(running.port, request, each=1, spread=0.5))
    running.settle()
    before, recorded = running.cpu_seconds(), running.recorded()
    whole = asyncio.run(streams(running.port, request, each=each, spread=events * INTERVAL))
    lost = running.missing_events(recorded, len(whole))
    return (running.cpu_seconds() - before) / (len(whole) * events) * 1e6, lost
