"""An upstream that follows a script, and a record of what its response stream does."""

from collections.abc import Callable, Iterator

from gevent.event import Event

from proxy.gateway.inflight import Cancelled
from proxy.gateway.response_stream import Outcome, ResponseStream
from proxy.upstream.transport import UpstreamResponse


class Script:
    """An UpstreamResponse by script: bytes are read, exceptions raised, an Event is waited for.

    ``known`` tells whether the last chunk is known to be the last when it is read.
    """

    def __init__(self, *steps: bytes | BaseException | Event, known: bool = False) -> None:
        self._steps = list(steps)
        self._known = known
        self.complete = False
        self.ready = False
        self.closed = 0
        self.reads = 0

    def read(self) -> bytes:
        self.reads += 1
        step = self._steps.pop(0) if self._steps else b""
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Event):
            step.wait(20)
            return self.read()
        self.complete = self._known and not self._steps
        return step

    def close(self) -> None:
        self.closed += 1


class Seen:
    """A body observer, and everything that a stream reports at its end."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ends: list[tuple[Outcome, str | None, int]] = []
        self.finished: list[bool] = []

    def feed(self, chunk: bytes) -> None:
        assert not self.finished, "fed after the end"
        self.chunks.append(chunk)

    def steps(self, chunk: bytes) -> Iterator[None]:
        """A byte with each step, so that what is thrown in meanwhile is thrown in the middle."""
        for at in range(len(chunk)):
            self.feed(chunk[at : at + 1])
            yield

    def finish(self, complete: bool) -> None:
        assert not self.ends, "finished after the close"
        self.finished.append(complete)

    def closing(self, upstream: Script | UpstreamResponse) -> Callable[[ResponseStream], None]:
        """What a request's context does with the end of its stream."""

        def on_close(stream: ResponseStream) -> None:
            self.ends.append((stream.outcome, stream.error_code, stream.bytes_out))
            upstream.close()

        return on_close


def no_event(interruption: Cancelled) -> bytes:
    return b""
