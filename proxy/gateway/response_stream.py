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
from typing import Final

from proxy.core.errors import ClientError, UpstreamError
from proxy.gateway.inflight import Cancelled, ShuttingDown
from proxy.runtime.yielding import STEP, in_turns
from proxy.upstream.body import BodyObserver, Source
from proxy.upstream.timing import Timing

#: The last event of a streamed chat, and the name of the one of Anthropic's stream.
_DONE: Final = b"data: [DONE]"
_MESSAGE_STOP: Final = b"event: message_stop"


class Outcome(StrEnum):
    """How a request ended, as its event reports it."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    ABORTED = "aborted"
    REJECTED = "rejected"
    #: An attempt whose response no client got, but that may be billed.
    SUPERSEDED = "superseded"
    #: Served from a stored response, or from one that another request had asked for.
    CACHED = "cached"


#: A response as the client gets it: reason, body, the observers of the body, content encoding. Its
#: status and headers are the context's. A bare tuple, since one is made for every request.
Relayed = tuple[str, Source, tuple[BodyObserver, ...], str]


class ResponseStream:
    """The body of a relayed response.

    ``closing_event`` returns the bytes to send before the proxy itself cuts the response (an SSE
    error event), or ``b""`` where they would corrupt it. ``keepalive`` does the same (an SSE
    comment) when the upstream has been silent for ``idle_after`` seconds; 0 means never. With
    ``drain_on_disconnect`` the upstream is read to its end after the client has left, so that the
    observers see all of the response. ``inflated`` means that the observers undo a compression, and
    so have more work than the size of a chunk suggests. ``on_close`` is called once, with this
    stream, when its public attributes are final; the owner of the upstream connection closes it
    there.
    """

    # Defaults instead of assignments in `__init__`, since a stream is made for every request.
    # The chunk that has gone out and is not metered yet, and whether metering it takes so long that
    # other greenlets must run meanwhile.
    _pending = b""
    _stepwise = False
    # The chunk that went out last.
    _sent = b""
    # Set when the closing event has been handed out and the next call must break the response.
    _raise_next: Cancelled | None = None
    # Whether the first item has been returned.
    _started = False
    #: Whether the chunk that was returned last is the last one of the response.
    ended = False
    bytes_out = 0
    # The outcome of a response that is closed early, unless another reason becomes known.
    outcome = Outcome.CLIENT_GONE
    error_code: str | None = None
    #: Whether the observers have seen the response to its end, even after the client has left:
    #: the argument of their `finish`.
    read_to_end = False

    def __init__(
        self,
        upstream: Source,
        timing: Timing,
        observers: Sequence[BodyObserver],
        *,
        closing_event: Callable[[Cancelled], bytes],
        keepalive: Callable[[], bytes] = bytes,
        idle_after: float = 0.0,
        drain_on_disconnect: bool = False,
        inflated: bool = False,
        on_close: Callable[["ResponseStream"], None],
    ) -> None:
        self._upstream = upstream
        self._timing = timing
        self._observers = observers
        self._closing_event = closing_event
        self._keepalive = keepalive
        self._idle_after = idle_after
        self._drain_on_disconnect = drain_on_disconnect
        self._on_close: Callable[[ResponseStream], None] | None = on_close
        self._inflated = inflated

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._started:
            # The server sends the head together with the first item, which must not wait for the
            # first byte of the body. A body that came with the upstream's head goes out with it.
            self._started = True
            if not self._upstream.ready:
                return b""
        if self._raise_next is not None:
            raise self._raise_next
        if self.ended:
            # No further read is needed. The chunk is metered in `close`, after the client has its
            # final bytes.
            self.outcome = Outcome.COMPLETED
            raise StopIteration
        chunk, from_upstream = self._next_chunk()
        if not from_upstream:
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
        if left and _is_last_event(self._sent):
            # The last event has been written. Clients leave then, without waiting for the end of
            # the framing.
            self.outcome = Outcome.COMPLETED
        try:
            self._meter_at_end()
            self.read_to_end = self.outcome is Outcome.COMPLETED
            if self._drain_on_disconnect and self.outcome is Outcome.CLIENT_GONE:
                self._read_on()
        finally:
            try:
                for observer in self._observers:
                    observer.finish(self.read_to_end)
            finally:
                on_close(self)

    def _next_chunk(self) -> tuple[bytes, bool]:
        """Return what goes out next, and whether it comes from the upstream.

        The chunk that went out before is metered first. Raises what breaks the response.
        """
        try:
            self._meter()
            if not self._idle_after:
                return self._upstream.read(), True
            return self._read_or_idle()
        except Cancelled as interruption:
            return self._interrupted(interruption), False
        except UpstreamError as error:
            if error.code == ShuttingDown.code:
                # The worker that reads the response for this one is stopping.
                return self._interrupted(ShuttingDown()), False
            self.outcome = Outcome.ABORTED
            self.error_code = error.code
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        except ClientError as error:
            # The rest of the client's upload failed while the response was already coming.
            self.error_code = error.code
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error

    def _read_or_idle(self) -> tuple[bytes, bool]:
        """Return the next chunk, or a keep-alive comment when none comes in time."""
        while (chunk := self._upstream.read_within(self._idle_after)) is None:
            comment = self._keepalive()
            if comment:
                return comment, False
        return chunk, True

    def _read_on(self) -> None:
        """Read the rest of the response, for the observers alone."""
        try:
            while chunk := self._upstream.read():
                self._pending, self._stepwise = chunk, self._inflated or len(chunk) > STEP
                self._meter()
        except (UpstreamError, ClientError, Cancelled):
            return
        self.read_to_end = True

    def _interrupted(self, interruption: Cancelled) -> bytes:
        self._note(interruption)
        event = self._closing_event(interruption) if interruption.code else b""
        if not event:
            raise interruption
        self._raise_next = interruption
        return event

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


def _is_last_event(chunk: bytes) -> bool:
    """Return whether a chunk of an event stream ends with its last event."""
    text = chunk.rstrip()
    if text.endswith(_DONE):
        return True
    last = text[max(text.rfind(b"\n\n"), text.rfind(b"\r\n\r\n"), 0) :].lstrip()
    return last.startswith(_MESSAGE_STOP) and chunk.endswith((b"\n\n", b"\r\n\r\n"))
