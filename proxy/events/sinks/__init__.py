"""Where events can go, by the value of ``EVENT_LOG``."""

from pathlib import Path

from proxy.events.sinks.base import Sink
from proxy.events.sinks.jsonl import JsonLinesSink
from proxy.events.sinks.stdout import StdoutSink


def from_event_log(event_log: str, *, max_bytes: int, backups: int) -> list[Sink]:
    """``off``: none; ``stdout``; anything else is the path of a JSON-lines file."""
    if event_log == "off":
        return []
    if event_log == "stdout":
        return [StdoutSink()]
    return [JsonLinesSink(Path(event_log), max_bytes=max_bytes, backups=backups)]
