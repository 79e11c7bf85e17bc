"""The contract of a sink: takes batches of JSON lines, raises when it did not take them."""

from collections.abc import Sequence
from pathlib import Path
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


class SinkSettings(Protocol):
    """What sinks need to know; the names are those of the settings."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def auth_mode(self) -> str: ...
    @property
    def event_log(self) -> str: ...
    @property
    def event_log_max_bytes(self) -> int: ...
    @property
    def event_log_backups(self) -> int: ...
    @property
    def cloudwatch_log_group(self) -> str: ...
    @property
    def cloudwatch_log_stream(self) -> str: ...
    @property
    def logging_url(self) -> str: ...
    @property
    def logging_token(self) -> str: ...
    @property
    def redis_url(self) -> str: ...
    @property
    def event_stream(self) -> str: ...
    @property
    def event_stream_max_length(self) -> int: ...
