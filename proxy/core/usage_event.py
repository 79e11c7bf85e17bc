"""The record of one request, as it is written: one JSON line.

Field names and their order are public (docs/events.md). It never holds a secret, a query string or
anything of a body but the usage.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson


class Intent(NamedTuple):
    """What is known of a request when it goes upstream: the beginning of its event."""

    event_id: str
    started: float
    request_id: str
    project_id: str | None
    token_id: str | None
    token: str | None
    endpoint: str
    method: str
    client_ip: str


@dataclass(slots=True)
class UsageEvent:
    """Durations in milliseconds, sizes in bytes, ``started`` in unix seconds."""

    started: float
    request_id: str
    endpoint: str
    method: str
    client_ip: str
    status_code: int | None
    outcome: str
    duration_ms: float | None
    project_id: str | None = None
    token_id: str | None = None
    token: str | None = None
    error_code: str | None = None
    stream: bool | None = False
    #: The wait for a connection to the upstream. For the metrics; not part of the line.
    queue_ms: float | None = None
    upstream_ms: float | None = None
    ttfb_ms: float | None = None
    bytes_in: int | None = 0
    bytes_out: int | None = 0
    usage_source: str = "none"
    #: How, where `usage_source` is `estimated`; else no part of the line.
    estimate_method: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    event_id: str = field(default_factory=lambda: os.urandom(16).hex())
    #: Limits that a read is charged to, should the ledger count it; no part of the line.
    spending: Sequence[Any] = ()
    #: Where its intent stands, see proxy/events/spool/inflight_table.py; no part of the line.
    slot: int = -1

    @property
    def is_read(self) -> bool:
        """Whether it only reads a stored response, which only the ledger knows to have counted or
        not. A WebSocket (101) generates, by a GET."""
        return (
            self.method == "GET"
            and self.status_code != 101
            and self.project_id is not None
            and "response_id" in self.metadata
        )

    def line(self) -> bytes:
        """The event as one JSON line, line end included."""
        return orjson.dumps(
            {
                "event_id": self.event_id,
                "timestamp": rfc3339(self.started),
                "request_id": self.request_id,
                "project_id": self.project_id,
                "token_id": self.token_id,
                "token": self.token,
                "endpoint": self.endpoint,
                "method": self.method,
                "status_code": self.status_code,
                "outcome": self.outcome,
                "error_code": self.error_code,
                "stream": self.stream,
                "duration_ms": _rounded(self.duration_ms),
                "upstream_ms": _rounded(self.upstream_ms),
                "ttfb_ms": _rounded(self.ttfb_ms),
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "client_ip": self.client_ip,
                "usage_source": self.usage_source,
                **({"estimate_method": self.estimate_method} if self.estimate_method else {}),
                "metadata": self.metadata,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


def _rounded(milliseconds: float | None) -> float | None:
    # Not `round`, which is exact about halves, and five times as slow.
    return None if milliseconds is None else int(milliseconds * 100 + 0.5) / 100


def rfc3339(unix_seconds: float) -> str:
    """UTC, milliseconds."""
    microseconds = round(unix_seconds * 1e6)
    return f"{_second(microseconds // 1_000_000)}.{microseconds // 1000 % 1000:03d}Z"


@functools.lru_cache(maxsize=64)
def _second(unix_seconds: int) -> str:
    """Up to the seconds; remembered, since most of the cost of a line was here."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def event_time(line: bytes) -> float | None:
    """Unix seconds; None when the line does not say."""
    try:
        return datetime.fromisoformat(orjson.loads(line)["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
