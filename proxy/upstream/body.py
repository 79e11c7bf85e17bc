"""The body of a response: what it is read from, and who sees its chunks."""

from collections.abc import Iterator
from typing import Protocol


class Source(Protocol):
    """What a body is read from: the upstream, or what stands in front of it. See
    :class:`proxy.upstream.transport.UpstreamResponse`."""

    @property
    def ready(self) -> bool:
        """Whether :meth:`read` would return without waiting."""

    @property
    def complete(self) -> bool:
        """Whether the chunk that was read last is known to be the last one."""

    def read(self) -> bytes:
        """Return what has arrived, ``b""`` at the end. Raises UpstreamError."""

    def read_within(self, seconds: float) -> bytes | None:
        """As :meth:`read`; None when nothing arrived in that time."""


class BodyObserver(Protocol):
    """Sees each chunk after it has gone out, then the end."""

    def feed(self, chunk: bytes) -> None: ...

    def steps(self, chunk: bytes) -> Iterator[None]:
        """As :meth:`feed`, in small steps."""

    def finish(self, complete: bool) -> None:
        """Called once, after the last chunk. It does not wait."""
