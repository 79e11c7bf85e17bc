"""The response on its way to the client: each chunk is read, sent, then metered.

The WSGI server iterates the stream and closes it. It is a class and not a generator: the
``finally`` of a generator does not run when it was never started (HEAD, or a client that leaves
before the first chunk), and the upstream connection would leak.

Note: a response that was cut must never look complete. What breaks it is raised as a connection
reset, so that the server closes the connection without the final chunk.
"""

import errno
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final, Protocol

from proxy.core.errors import ClientError, UpstreamError
from proxy.gateway.inflight import Cancelled
from proxy.runtime.yielding import STEP, in_turns
from proxy.upstream.timing import Timing

#: The last event of a streamed chat.
_DONE: Final = b"data: [DONE]"


class Outcome(StrEnum):
    """How a request ended, as its event reports it."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    ABORTED = "aborted"
    REJECTED = "rejected"


class BodyObserver(Protocol):
    """Sees each chunk after it has gone out."""

    def feed(self, chunk: bytes) -> None: ...

    def steps(self, chunk: bytes) -> Iterator[None]: ...  # the same, a little with each `next`


class Source(Protocol):
    """What is read: an :class:`proxy.upstream.transport.UpstreamResponse`, as seen from here."""

    @property
    def ready(self) -> bool: ...

    @property
    def complete(self) -> bool: ...

    def read(self) -> bytes: ...

    def read_within(self, seconds: float) -> bytes | None: ...


class ResponseStream:
    """The body of a relayed response.

    ``farewell`` returns the bytes to send before the proxy itself cuts the response (an SSE error
    event), or ``b""`` where they would corrupt it. ``keepalive_words`` does the same when the
    upstream has been silent for ``idle_after`` seconds (0: never). With ``drain`` the upstream is
    read to its end after the client has left, for what the observers can still learn. With
    ``inflated`` the observers see more than what passes, for they undo a compression.
    ``on_close`` is called once, with this stream, when its public attributes are final; the owner
    of the upstream connection closes it there.
    """

    # Defaults instead of assignments in `__init__`, since a stream is made for every request.
    # The chunk that is out with the client and has not been metered yet, and whether metering takes
    # so long that others need a turn meanwhile.
    _pending = b""
    _stepwise = False
    # The chunk that went out last.
    _sent = b""
    # Set when the last words have been handed out and the next call must break the response.
    _raise_next: Cancelled | None = None
    # Whether the first item has been given.
    _started = False
    #: Whether the chunk that was given last is the last one.
    ended = False
    bytes_out = 0
    # Until something else is known, a response that is closed early was left by its client.
    outcome = Outcome.CLIENT_GONE
    error_code: str | None = None
    #: Whether the observers have seen the response to its end, be it after the client had left.
    read_to_end = False

    def __init__(
        self,
        upstream: Source,
        timing: Timing,
        observers: Sequence[BodyObserver],
        *,
        farewell: Callable[[Cancelled], bytes],
        keepalive_words: Callable[[], bytes] = bytes,
        idle_after: float = 0.0,
        drain: bool = False,
        inflated: bool = False,
        on_close: Callable[["ResponseStream"], None],
    ) -> None:
        self._upstream = upstream
        self._timing = timing
        self._observers = observers
        self._farewell = farewell
        self._idle_words = keepalive_words
        self._idle_after = idle_after
        self._drain = drain
        self._on_close: Callable[[ResponseStream], None] | None = on_close
        self._inflated = inflated

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._started:
            # The server sends the head together with the first item. That must not wait for the
            # first byte of the body; but what has come with the upstream's head goes with ours.
            self._started = True
            if not self._upstream.ready:
                return b""
        if self._raise_next is not None:
            raise self._raise_next
        if self.ended:
            # Known without another read; the chunk is metered in `close`, after the client has
            # its final bytes.
            self.outcome = Outcome.COMPLETED
            raise StopIteration
        chunk, theirs = self._next_chunk()
        if not theirs:
            self.bytes_out += len(chunk)
            return chunk
        if not chunk:
            self.outcome = Outcome.COMPLETED
            raise StopIteration
        if not self._timing.first_byte:
            self._timing.mark_first_byte()
        if self._upstream.complete:
            self.ended = True
            self._timing.mark_upstream_done()
        self._pending = self._sent = chunk
        size = len(chunk)
        self.bytes_out += size
        self._stepwise = self._inflated or size > STEP
        return chunk

    def close(self) -> None:
        """Idempotent; called by the server in every case."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        error = sys.exception()
        if isinstance(error, Cancelled):
            # It surfaced outside of `__next__`, while the server was writing a chunk.
            self._note(error)
        if not self.ended:
            self._timing.mark_upstream_done()
        left = self.outcome is Outcome.CLIENT_GONE and not isinstance(error, OSError)
        if left and self._sent.rstrip().endswith(_DONE):
            # It has been written; clients leave then, without waiting for the framing's end.
            self.outcome = Outcome.COMPLETED
        try:
            self._meter_at_end()
            self.read_to_end = self.outcome is Outcome.COMPLETED
            if self._drain and self.outcome is Outcome.CLIENT_GONE:
                self._read_on()
        finally:
            on_close(self)

    def _next_chunk(self) -> tuple[bytes, bool]:
        """What goes out next, and whether it is the upstream's. Raises what breaks the response.

        What went out before is metered first.
        """
        try:
            self._meter()
            if not self._idle_after:
                return self._upstream.read(), True
            return self._read_or_idle()
        except Cancelled as interruption:
            return self._interrupted(interruption), False
        except UpstreamError as error:
            self.outcome = Outcome.ABORTED
            self.error_code = error.code
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        except ClientError as error:
            # The rest of its upload failed, while the response was already coming.
            self.error_code = error.code
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error

    def _read_or_idle(self) -> tuple[bytes, bool]:
        """The next chunk, or words of our own while there is none."""
        while (chunk := self._upstream.read_within(self._idle_after)) is None:
            words = self._idle_words()
            if words:
                return words, False
        return chunk, True

    def _read_on(self) -> None:
        """Read what is left, for the observers alone."""
        try:
            while chunk := self._upstream.read():
                self._pending, self._stepwise = chunk, self._inflated or len(chunk) > STEP
                self._meter()
        except (UpstreamError, ClientError, Cancelled):
            return
        self.read_to_end = True

    def _interrupted(self, interruption: Cancelled) -> bytes:
        self._note(interruption)
        closing_event = self._farewell(interruption) if interruption.code else b""
        if not closing_event:
            raise interruption
        self._raise_next = interruption
        return closing_event

    def _note(self, interruption: Cancelled) -> None:
        if interruption.code is not None:
            self.outcome = Outcome.ABORTED
            self.error_code = interruption.code

    def _meter(self) -> None:
        chunk, self._pending = self._pending, b""
        if chunk and self._stepwise:
            in_turns(self._steps(chunk))
        elif chunk:
            for observer in self._observers:
                observer.feed(chunk)

    def _meter_at_end(self) -> None:
        try:
            self._meter()
        except Cancelled as interruption:
            if self.outcome is not Outcome.COMPLETED:
                self._note(interruption)

    def _steps(self, chunk: bytes) -> Iterator[None]:
        for observer in self._observers:
            yield from observer.steps(chunk)
