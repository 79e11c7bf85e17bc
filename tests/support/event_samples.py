"""Usage events and sinks for tests."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import monkey

from proxy.core.usage_event import Intent, UsageEvent
from proxy.events.spool.inflight_table import intent_record
from proxy.events.spool.segment import encode_record

#: Blocks the native thread, as a slow disk does.
block: Callable[[float], None] = monkey.get_original("time", "sleep")


def event(name: str = "r", **changes: Any) -> UsageEvent:
    fields: dict[str, Any] = {
        "started": 1_779_235_380.1239,
        "request_id": name,
        "endpoint": "/v1/chat/completions",
        "method": "POST",
        "client_ip": "192.0.2.1",
        "status_code": 200,
        "outcome": "completed",
        "duration_ms": 150.239,
    }
    return UsageEvent(**fields | changes)


def intent(name: str = "r", endpoint: str = "/v1/chat/completions", method: str = "POST") -> bytes:
    mask = "sk-JHjW...fQIZ"
    ids = (name.rjust(32, "0"), 1_779_235_380.1239, name, "p1", "t1", mask)
    return intent_record(Intent(*ids, endpoint, method, "::1"))


def record(name: str, **changes: Any) -> bytes:
    return encode_record(event(name, event_id=name.rjust(32, "0"), **changes).line())


def names(lines: Sequence[bytes]) -> list[str]:
    return [json.loads(line)["request_id"] for line in lines]


class Sink:
    """Keeps what it takes. ``trouble`` is called before each write, on the sink's thread."""

    def __init__(self, trouble: Callable[[], None] = lambda: None) -> None:
        self.trouble = trouble
        self.lines: list[bytes] = []
        self.batches: list[int] = []
        self.tries: list[float] = []
        self.closed = 0
        self.busy = False

    def write(self, batch: Sequence[bytes]) -> None:
        assert not self.busy
        self.busy = True
        try:
            self.tries.append(time.monotonic())
            self.trouble()
            self.lines.extend(batch)
            self.batches.append(len(batch))
        finally:
            self.busy = False

    def close(self) -> None:
        assert not self.busy
        self.closed += 1


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    with gevent.Timeout(seconds):
        while not condition():
            gevent.sleep(0.002)
