"""The usage event: the record of one request, written as one JSON line.

Field names and their order are public (docs/events.md). An event never holds a secret, a query
string, or anything of a body except the usage.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson


class Intent(NamedTuple):
    """The fields of an event that are known when the request goes upstream."""

    event_id: str
    started: float
    request_id: str
    project_id: str | None
    token_id: str | None
    token: str | None
    endpoint: str
    method: str
    client_ip: str


@dataclass(frozen=True, slots=True)
class RoutingFacts:
    """Who served a request that could go to several targets, and what was tried."""

    #: The provider's name. None: the project's own key.
    provider: str | None
    #: The provider's name of the model.
    upstream_model: str | None
    #: What the client asked for: an alias, or a provider's name. For the metrics; not in the line.
    alias: str
    #: One object for each attempt: provider, model, key_id, status, ms, reason.
    attempts: tuple[Mapping[str, Any], ...]
    #: Why the request moved on, for each move to another target. For the metrics; not in the line.
    moves: tuple[str, ...] = ()

    def members(self) -> dict[str, object]:
        """The members of the event's line."""
        found: dict[str, object] = {
            "provider": self.provider,
            "upstream_model": self.upstream_model,
        }
        if self.attempts:
            found["attempts"] = self.attempts
        return found


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """How a request was served without an upstream response of its own, and what that saved.

    Its event has the outcome `cached`, the `usage_source` `cached`, and :meth:`metadata`.
    """

    #: `hit`: a stored response. `collapsed`: the response to another request, which was in flight.
    #: `replayed`: the first result of an idempotency key. `stale`: stored and expired, since the
    #: upstream failed.
    how: Literal["hit", "collapsed", "replayed", "stale"]
    #: The LLM tokens of the response that was paid for once. None: it reported none.
    saved_prompt_tokens: int | None = None
    saved_completion_tokens: int | None = None

    def members(self) -> dict[str, object]:
        """The members of the event's line."""
        found: dict[str, object] = {"cache": self.how}
        if self.saved_prompt_tokens is not None:
            found["saved_prompt_tokens"] = self.saved_prompt_tokens
        if self.saved_completion_tokens is not None:
            found["saved_completion_tokens"] = self.saved_completion_tokens
        return found

    def metadata(self, model: str | None) -> dict[str, object]:
        """The event's `metadata`: the model, and counts of 0, since nothing was generated.

        It has no `response_id`: the ledger would take the hit for that response's generation.
        """
        found: dict[str, object] = {} if model is None else {"model": model}
        if self.saved_prompt_tokens is not None or self.saved_completion_tokens is not None:
            found.update(prompt_tokens=0, completion_tokens=0, total_tokens=0)
        return found


@dataclass(slots=True)
class UsageEvent:
    """Durations are in milliseconds, sizes in bytes, `started` in unix seconds."""

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
    #: The wait for a connection to the upstream. For the metrics; not in the line.
    queue_ms: float | None = None
    upstream_ms: float | None = None
    ttfb_ms: float | None = None
    bytes_in: int | None = 0
    bytes_out: int | None = 0
    usage_source: str = "none"
    #: The method where `usage_source` is `estimated`; otherwise not in the line.
    estimate_method: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    event_id: str = field(default_factory=lambda: os.urandom(16).hex())
    #: Limits that a read is charged to if the ledger counts it; not in the line.
    token_buckets: Sequence[Any] = ()
    #: Slot of its intent, see proxy/events/spool/inflight_table.py; not in the line.
    slot: int = -1
    #: None: the project's own key, and one attempt.
    routing: RoutingFacts | None = None
    #: None: the response came from an upstream, or there was none.
    cache: CacheFacts | None = None

    @property
    def is_read(self) -> bool:
        """Whether the request only reads a stored response: only the ledger knows whether that is
        counted already. A WebSocket (101) is a GET that generates."""
        return (
            self.method == "GET"
            and self.status_code != 101
            and self.project_id is not None
            and "response_id" in self.metadata
        )

    def line(self) -> bytes:
        """The event as one JSON line with its line end."""
        members: dict[str, object] = {
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
            "provider": None,
        }
        if self.routing is not None:
            members.update(self.routing.members())
        if self.cache is not None:
            members.update(self.cache.members())
        return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def _rounded(milliseconds: float | None) -> float | None:
    # Not `round`, which is exact about halves and takes five times as long.
    return None if milliseconds is None else int(milliseconds * 100 + 0.5) / 100


def rfc3339(unix_seconds: float) -> str:
    """`unix_seconds` as RFC 3339 text: UTC, milliseconds."""
    microseconds = round(unix_seconds * 1e6)
    return f"{_second(microseconds // 1_000_000)}.{microseconds // 1000 % 1000:03d}Z"


@functools.lru_cache(maxsize=64)
def _second(unix_seconds: int) -> str:
    """The text up to the seconds. Cached, because most of the cost of a line was here."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def event_time(line: bytes) -> float | None:
    """The time of an event's line in unix seconds; None for a line without a valid time."""
    try:
        return datetime.fromisoformat(orjson.loads(line)["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
