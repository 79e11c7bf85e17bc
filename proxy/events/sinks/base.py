"""The contract of a sink: takes batches of JSON lines, raises when it did not take them."""

from collections.abc import Sequence
from typing import Protocol


class Sink(Protocol):
    """Called on a thread of its own, never from two at once; may block."""

    def write(self, batch: Sequence[bytes]) -> None:
        """Take all lines, each with its line end, or raise; then the batch comes again."""
        ...

    def close(self) -> None: ...
