"""The sinks: those of a worker by the value of ``EVENT_LOG``, the remote ones by name.

A remote sink's library costs 50 MB and a fifth of a second, so it is imported when the sink is
opened, which never happens in a worker.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from proxy.events.sinks.base import DeadLetters, Sink, SinkOptions
from proxy.events.sinks.jsonl import JsonLinesSink
from proxy.events.sinks.stdout import StdoutSink

#: The usage ledger. It is no remote sink, but its database may be as slow as one.
LEDGER: Final = "ledger"
#: Name of a remote sink → the option that configures it, and ``module:class``, where the class has
#: a method ``from_options``.
REMOTE: Final[Mapping[str, tuple[str, str]]] = {
    "cloudwatch": ("cloudwatch_log_group", "cloudwatch:CloudWatchSink"),
    "http": ("logging_url", "http:HttpSink"),
    "redis": ("event_stream", "redis:RedisSink"),
}


def from_event_log(event_log: str, *, max_bytes: int, backups: int) -> list[Sink]:
    """A worker's sinks. `event_log` is ``off``, ``stdout`` or the path of a JSON-lines file."""
    if event_log == "off":
        return []
    if event_log == "stdout":
        return [StdoutSink()]
    return [JsonLinesSink(Path(event_log), max_bytes=max_bytes, backups=backups)]


def configured(options: SinkOptions) -> list[str]:
    """The names of the remote sinks that `options` configure."""
    return [name for name, (option, _) in REMOTE.items() if getattr(options, option)]


def shipped(options: SinkOptions) -> list[str]:
    """The names of all sinks that the shipper delivers to.

    The ledger is one of them wherever there are projects.
    """
    ledger = [LEDGER] if options.ledger else []
    return [*ledger, *configured(options)]


def open_remote(name: str, options: SinkOptions, dead: DeadLetters) -> Sink:
    """Import and make a sink, without connecting it. It adds what it never accepts to `dead`."""
    module, attribute = REMOTE[name][1].split(":")
    part = getattr(importlib.import_module(f"proxy.events.sinks.{module}"), attribute)
    return cast(Sink, part.from_options(options, dead))
