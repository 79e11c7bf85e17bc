"""A client connection of asyncio: when did the first byte of a body come, and did its end come?"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from proxy.tools.http1_reader import ResponseReader

#: Bytes at a body's end in which `[DONE]` is looked for.
_TAIL: Final = 64


@dataclass
class Response:
    """Of one request. Seconds; ``complete`` says that its framing came to its end."""

    status: int = 0
    first_byte: float = 0.0
    total: float = 0.0
    events: int = 0
    reads: int = 0
    complete: bool = False
    done_seen: bool = False


class Connection(asyncio.Protocol):
    """One request at a time. Events are counted by their blank lines, not parsed."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self._response = Response()
        self._started = 0.0
        self._reader = ResponseReader()
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[Response]":
        """Sends it; the future always gets a response, a broken one when the connection ends."""
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        self._response = Response()
        self._reader, self._tail = ResponseReader(), b""
        self._started = time.perf_counter()
        if self.closed or not self._transport:
            self._finish()
        else:
            self._transport.write(request)
        return waiting

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        response, reader = self._response, self._reader
        in_body = reader.head is not None
        body = reader.read(data)
        if body:
            if not response.first_byte:
                response.first_byte = now - self._started
            response.events += body.count(b"\n\n")
            self._tail = body if len(body) > _TAIL else (self._tail + body)[-_TAIL:]
        if body or in_body:
            response.reads += 1  # one that brings the last chunk alone counts too
        if reader.ended or reader.problem:
            self._finish()

    def _finish(self) -> None:
        response, reader, waiting = self._response, self._reader, self._waiting
        response.total = time.perf_counter() - self._started
        response.complete = reader.ended and not reader.unread
        if reader.head:
            response.status = reader.head.status
        response.done_seen = b"[DONE]" in self._tail
        self._waiting = None
        if waiting and not waiting.done():
            waiting.set_result(response)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._waiting:
            if error is None:
                self._reader.read(b"")
            self._finish()

    def close(self) -> None:
        if self._transport:
            self._transport.abort()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", port
    )
    return connection
