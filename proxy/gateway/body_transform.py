"""A response of which the client gets less than came: an upstream's response behind a filter.

It stands between the two that do not know of it: to the stream it is what is read, and the observer
that is told when a chunk has gone out; to the real observer it then gives what the upstream sent.

Note: a chunk may leave nothing to send. It must not look like the end, and it is metered at once,
since no later chunk of the client's stands for it.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from proxy.gateway.response_stream import BodyObserver, Source
from proxy.runtime.yielding import STEP, turn_if_due


class BodyTransform(Protocol):
    """Bytes in, bytes out, some later, some never."""

    def feed(self, chunk: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class EventStream(Protocol):
    """What the client has been sent so far, as the one who follows it sees it."""

    @property
    def at_event_boundary(self) -> bool: ...


class TransformedBody:
    """A :class:`Source` and a :class:`BodyObserver`. When the upstream breaks off, what is held of
    an event is not sent. Of a large chunk a few KiB are filtered, sent and metered at a time."""

    __slots__ = ("_filter", "_observer", "_ready", "_rest", "_seen", "_source")

    def __init__(self, source: Source, chosen: BodyTransform, observer: BodyObserver) -> None:
        self._source = source
        self._filter = chosen
        self._observer = observer
        # What was read and has not been filtered yet.
        self._rest = b""
        # What was read to find out whether there is anything to send.
        self._ready = b""
        # What the upstream sent for the chunk that is going out.
        self._seen = b""

    @property
    def complete(self) -> bool:
        return self._source.complete and not self._rest

    @property
    def ready(self) -> bool:
        """Whether :meth:`read` has something to give without waiting."""
        while not self._ready and (self._rest or self._source.ready):
            self._ready = self._passed(self._next(self._source.read) or b"")
            if self.complete:
                return True
        return bool(self._ready)

    def read(self) -> bytes:
        """What may go out now; ``b""`` at the end. Raises as the source does."""
        return self._read(self._source.read) or b""

    def read_within(self, seconds: float) -> bytes | None:
        """As :meth:`read`, or None when nothing came in that time."""
        return self._read(lambda: self._source.read_within(seconds))

    def feed(self, _: bytes) -> None:
        """What :meth:`read` gave last has gone out."""
        seen, self._seen = self._seen, b""
        if seen:
            self._observer.feed(seen)

    def steps(self, chunk: bytes) -> Iterator[None]:
        """As :meth:`feed`; one step, since chunks are small here."""
        self.feed(chunk)
        yield

    def finish(self, complete: bool) -> None:
        self._observer.finish(complete)

    def _read(self, read: Callable[[], bytes | None]) -> bytes | None:
        if self._ready:
            out, self._ready = self._ready, b""
            return out
        while chunk := self._next(read):
            out = self._passed(chunk)
            if out or self.complete:
                return out
        return chunk if chunk is None else self._filter.end()

    def _next(self, read: Callable[[], bytes | None]) -> bytes | None:
        """What comes next of what the upstream sent."""
        if self._rest:
            turn_if_due()
        else:
            chunk = read()
            if chunk is None or len(chunk) <= STEP:
                return chunk
            self._rest = chunk
        piece, self._rest = self._rest[:STEP], self._rest[STEP:]
        return piece

    def _passed(self, chunk: bytes) -> bytes:
        """What of it goes out, the rest of all being known when it is the last."""
        out = self._filter.feed(chunk)
        if self.complete:
            out += self._filter.end()
        if out:
            self._seen = chunk
        else:
            self._observer.feed(chunk)
        return out
