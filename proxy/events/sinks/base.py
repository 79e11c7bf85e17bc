"""The contract of a sink: it accepts a batch of JSON lines, or raises."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Sink(Protocol):
    """Called on a thread of its own, by one caller at a time. Its methods may block."""

    def write(self, batch: Sequence[bytes]) -> None:
        """Write all lines, each with its line end. Raises when the sink did not accept all of them:
        the caller then passes the batch again."""
        ...

    def close(self) -> None: ...


class DeadLetters(Protocol):
    """Where a sink puts events that its receiver never accepts."""

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        """Store `lines`. Raises when that fails: the batch is not done then."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """Settings of the shipper's sinks. An empty string means that there is no such sink."""

    #: Whether there is a usage ledger.
    ledger: bool
    cloudwatch_log_group: str
    cloudwatch_log_stream: str
    logging_url: str
    logging_token: str
    redis_url: str
    event_stream: str
    event_stream_max_length: int
