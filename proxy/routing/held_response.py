"""Responses that were read in part before it was decided who gets them.

To the stream that relays it, a held response looks like the upstream's own: what is held comes
first, then the rest as it arrives.
"""

from collections.abc import Callable
from http.client import responses
from typing import Final, Protocol

from proxy.core.errors import UpstreamTimeout
from proxy.upstream.body import Source

Headers = list[tuple[str, str]]

#: A body of an error that is larger is not read whole; its beginning is enough to judge it by.
MAX_ERROR_BYTES: Final = 64 * 1024
#: Seconds for which the body of an error is read before it is judged by what has come.
MAX_ERROR_SECONDS: Final = 5.0
#: Lines of a stream's head that do not hold for an error in its place.
_OF_THE_STREAM: Final = frozenset({"content-type", "content-length", "content-encoding"})


class Response(Source, Protocol):
    """A response whose head has been read, see
    :class:`proxy.upstream.transport.UpstreamResponse`."""

    status: int
    reason: str
    headers: Headers

    def close(self) -> None: ...


class HeldResponse:
    """A response of which the first chunks have been read.

    With a `deadline` (by `clock`, in seconds) the rest must have come by then: otherwise reading
    raises UpstreamTimeout.
    """

    __slots__ = ("_clock", "_deadline", "_held", "_rest", "headers", "reason", "status")

    def __init__(
        self,
        response: Response,
        held: list[bytes],
        *,
        clock: Callable[[], float] | None = None,
        deadline: float | None = None,
    ) -> None:
        self._rest = response
        self._held = [chunk for chunk in held if chunk]
        self._clock = clock
        self._deadline = deadline
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers

    @property
    def ready(self) -> bool:
        return bool(self._held) or self._rest.ready

    @property
    def complete(self) -> bool:
        return not self._held and self._rest.complete

    def read(self) -> bytes:
        if self._held:
            return self._held.pop(0)
        if self._deadline is None or self._clock is None:
            return self._rest.read()
        chunk = self._rest.read_within(max(0.001, self._deadline - self._clock()))
        if chunk is None:
            raise UpstreamTimeout
        return chunk

    def read_within(self, seconds: float) -> bytes | None:
        if self._held:
            return self._held.pop(0)
        if self._deadline is None or self._clock is None:
            return self._rest.read_within(seconds)
        left = self._deadline - self._clock()
        chunk = self._rest.read_within(max(0.001, min(seconds, left)))
        if chunk is None and left <= seconds:
            raise UpstreamTimeout
        return chunk

    def close(self) -> None:
        self._rest.close()


class ErrorResponse:
    """An error that a stream began with, as a response of its own: its status, and its JSON."""

    __slots__ = ("_body", "_rest", "headers", "reason", "status")

    def __init__(self, response: Response, status: int, body: bytes) -> None:
        self._rest = response
        self._body = body
        self.status = status
        self.reason = responses.get(status, "Error")
        self.headers: Headers = [
            line for line in response.headers if line[0].lower() not in _OF_THE_STREAM
        ]
        self.headers.append(("Content-Type", "application/json"))

    @property
    def ready(self) -> bool:
        return True

    @property
    def complete(self) -> bool:
        return not self._body

    def read(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def read_within(self, seconds: float) -> bytes | None:
        return self.read()

    def close(self) -> None:
        self._rest.close()


def hold_error(
    response: Response, clock: Callable[[], float], shared_key: str | None = None
) -> tuple[HeldResponse, bytes]:
    """Read the body of an error, at most about :data:`MAX_ERROR_BYTES` and not for longer than
    :data:`MAX_ERROR_SECONDS` by `clock`, so that it can be judged.

    Returns the response with it, and what was read. `shared_key`, the upstream key of a shared
    provider, is masked where the body repeats it: no client may see that. The length stays. A body
    that is read to its end has given its connection back. Raises UpstreamError.
    """
    chunks: list[bytes] = []
    size = 0
    until = clock() + MAX_ERROR_SECONDS
    while not response.complete and size < MAX_ERROR_BYTES and (left := until - clock()) > 0:
        chunk = response.read_within(left)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    body = b"".join(chunks)
    if shared_key and (secret := shared_key.encode()) in body:
        body = body.replace(secret, b"*" * len(secret))
        chunks = [body]
    return HeldResponse(response, chunks), body
