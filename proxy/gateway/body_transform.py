"""A transformed response: the client gets other bytes than the upstream sent, often fewer.

:class:`TransformedBody` replaces the upstream as the source of a response stream, and its observer.
When a chunk has gone out, it passes what the upstream sent for that chunk to the real observer.

Note: a chunk of the upstream may leave nothing to send. That must not look like the end of the
response. Such a chunk is metered at once, since no chunk to the client corresponds to it.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.core.errors import UpstreamError
from proxy.providers.base import BodyTransform
from proxy.runtime.yielding import STEP, turn_if_due
from proxy.upstream.body import BodyObserver, Source


class EventStream(Protocol):
    """The event stream that the client has been sent so far."""

    @property
    def at_event_boundary(self) -> bool: ...


class TransformedBody:
    """A :class:`Source` and a :class:`BodyObserver`.

    When the upstream breaks off, an incomplete event that is held is not sent. A large chunk is
    transformed, sent and metered a few KiB at a time.
    """

    __slots__ = ("_failure", "_observer", "_ready", "_rest", "_seen", "_source", "_transform")

    def __init__(self, source: Source, transform: BodyTransform, observer: BodyObserver) -> None:
        self._source = source
        self._transform = transform
        self._observer = observer
        # Why the response breaks off once what is ready has gone out.
        self._failure: UpstreamError | None = None
        # What was read and is not transformed yet.
        self._rest = b""
        # What may go out, already read by `ready`.
        self._ready = b""
        # The upstream's bytes that the chunk that is going out was made from.
        self._seen = b""

    @property
    def complete(self) -> bool:
        return self._source.complete and not self._rest and self._failure is None

    @property
    def ready(self) -> bool:
        """Whether :meth:`read` would return without waiting."""
        while not self._ready and self._failure is None and (self._rest or self._source.ready):
            try:
                self._ready = self._transformed(self._next(self._source.read) or b"")
            except UpstreamError as error:
                self._failure = error
            if self.complete:
                return True
        return bool(self._ready) or self._failure is not None

    def read(self) -> bytes:
        """Return what may go out now, or ``b""`` at the end. Raises as the source does."""
        return self._read(self._source.read) or b""

    def read_within(self, seconds: float) -> bytes | None:
        """As :meth:`read`; None when nothing arrived in that time."""
        return self._read(lambda: self._source.read_within(seconds))

    def feed(self, _: bytes) -> None:
        """Meter the upstream's bytes: what :meth:`read` returned last has gone out."""
        seen, self._seen = self._seen, b""
        if seen:
            self._observer.feed(seen)

    def steps(self, chunk: bytes) -> Iterator[None]:
        """As :meth:`feed`, in one step, since chunks are small here."""
        self.feed(chunk)
        yield

    def finish(self, complete: bool) -> None:
        self._observer.finish(complete)

    def _read(self, read: Callable[[], bytes | None]) -> bytes | None:
        if self._ready:
            out, self._ready = self._ready, b""
            return out
        if self._failure is not None:
            raise self._failure
        while chunk := self._next(read):
            out = self._transformed(chunk)
            if out or self.complete:
                return out
        return chunk if chunk is None else self._transform.end()

    def _next(self, read: Callable[[], bytes | None]) -> bytes | None:
        """Return the next piece of what the upstream sent, None when nothing arrived in time."""
        if self._rest:
            turn_if_due()
        else:
            chunk = read()
            if chunk is None or len(chunk) <= STEP:
                return chunk
            self._rest = chunk
        piece, self._rest = self._rest[:STEP], self._rest[STEP:]
        return piece

    def _transformed(self, chunk: bytes) -> bytes:
        """Return what goes out for `chunk`, with the held rest if it is the last one."""
        out = self._transform.feed(chunk)
        if self.complete:
            try:
                out += self._transform.end()
            except UpstreamError as error:
                if not out:
                    self._observer.feed(chunk)
                    raise
                self._failure = error
        if out:
            self._seen = chunk
        else:
            self._observer.feed(chunk)
        return out
