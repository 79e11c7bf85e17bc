"""The contract of a sink: takes batches of JSON lines, raises when it did not take them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Sink(Protocol):
    """Called on a thread of its own, never from two at once; may block."""

    def write(self, batch: Sequence[bytes]) -> None:
        """Take all lines, each with its line end, or raise; then the batch comes again."""
        ...

    def close(self) -> None: ...


class DeadLetters(Protocol):
    """Where a sink puts events that its receiver will never take."""

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        """Raises when it could not; then the batch is not done with."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """What the shipper's sinks are made of. An empty string means: there is no such sink."""

    #: Whether there is a usage ledger.
    ledger: bool
    cloudwatch_log_group: str
    cloudwatch_log_stream: str
    logging_url: str
    logging_token: str
    redis_url: str
    event_stream: str
    event_stream_max_length: int
