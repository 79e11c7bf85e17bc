"""Bodies of stored responses: written to a client, and recorded while a client gets them."""

from collections.abc import Callable, Iterator
from typing import Final

#: An event of a stream ends with an empty line (WHATWG HTML §9.2.6).
_EVENT_ENDS: Final = (b"\n\n", b"\r\r", b"\r\n\r\n")


class StoredBody:
    """A :class:`proxy.upstream.body.Source`: a stored body, in the chunks it came in."""

    __slots__ = ("_body", "_position", "_sizes", "complete")

    #: All of it is here.
    ready = True

    def __init__(self, body: bytes, chunk_sizes: tuple[int, ...]) -> None:
        self._body = memoryview(body)
        self._sizes = iter(chunk_sizes)
        self._position = 0
        self.complete = not body

    def read(self) -> bytes:
        size = next(self._sizes, 0)
        begin, self._position = self._position, self._position + size
        self.complete = self._position >= len(self._body)
        return bytes(self._body[begin : self._position])

    def read_within(self, seconds: float) -> bytes | None:
        return self.read()


class BodyRecorder:
    """A body observer that keeps what the client gets, up to a size.

    `recorded` is called once, after the last byte, with the body and the sizes of its chunks, if
    the whole response has come; `given_up` with the reason, if not. It is complete when the source
    has said so: a client that leaves after the last event has not waited for that.
    """

    __slots__ = ("_chunks", "_given_up", "_is_complete", "_left", "_recorded")

    def __init__(
        self,
        max_bytes: int,
        is_complete: Callable[[], bool],
        recorded: Callable[[list[bytes]], None],
        given_up: Callable[[str], None],
    ) -> None:
        self._left = max_bytes
        self._is_complete = is_complete
        self._recorded = recorded
        self._given_up = given_up
        # None: the body is too large to be kept.
        self._chunks: list[bytes] | None = []

    def feed(self, chunk: bytes) -> None:
        if self._chunks is None:
            return
        self._left -= len(chunk)
        if self._left < 0:
            self._chunks = None
        else:
            self._chunks.append(chunk)

    def steps(self, chunk: bytes) -> Iterator[None]:
        self.feed(chunk)
        yield

    def finish(self, complete: bool) -> None:
        chunks, self._chunks = self._chunks, None
        if chunks is None:
            self._given_up("too_large")
        elif not complete or not self._is_complete():
            self._given_up("incomplete")
        else:
            self._recorded(chunks)


class EventBoundary:
    """A body observer that knows whether what has gone out ends with a whole event.

    It is a :class:`proxy.gateway.body_transform.EventStream` of a response that is not metered.
    """

    __slots__ = ("_end", "_is_plain")

    def __init__(self, *, is_plain: bool) -> None:
        """`is_plain`: the bytes of the body are its events, and not compressed."""
        self._is_plain = is_plain
        self._end = b"\n\n"  # before the first event

    @property
    def at_event_boundary(self) -> bool:
        return self._is_plain and self._end.endswith(_EVENT_ENDS)

    def feed(self, chunk: bytes) -> None:
        self._end = (self._end + chunk)[-4:] if len(chunk) < 4 else chunk[-4:]

    def steps(self, chunk: bytes) -> Iterator[None]:
        self.feed(chunk)
        yield

    def finish(self, complete: bool) -> None:
        """There is nothing to finish."""
