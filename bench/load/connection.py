"""A client connection of asyncio: when did the first byte of a body come, and did its end come?"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
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
        self._waiting: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._started = 0.0
        self._head = b""
        self._in_body = False
        self._left = -1  # bytes of the body still to come, or -1: in chunks
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        """Sends it; the future always gets an answer, a broken one when the connection ends."""
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        self._answer = Answer()
        self._head, self._in_body, self._left, self._tail = b"", False, -1, b""
        self._started = time.perf_counter()
        if self.closed or not self._transport:
            self._finish(complete=False)
        else:
            self._transport.write(request)
        return waiting

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        answer = self._answer
        if not self._in_body:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._in_body = True
            self._read_head(head)
        if data:
            if not answer.first_byte:
                answer.first_byte = now - self._started
            answer.reads += 1
            answer.events += data.count(b"\n\n")
            self._tail = (self._tail + data)[-64:]
        if self._left >= 0:
            self._left -= len(data)
        if self._left == 0 or (self._left < 0 and self._tail.endswith(b"\r\n0\r\n\r\n")):
            self._finish(complete=True)

    def _read_head(self, head: bytes) -> None:
        self._answer.status = int(head.split(b" ", 2)[1])
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        if at >= 0:
            self._left = int(lower[at + 17 :].split(b"\r\n", 1)[0])

    def _finish(self, *, complete: bool) -> None:
        answer, waiting = self._answer, self._waiting
        answer.total = time.perf_counter() - self._started
        answer.complete = complete
        answer.done_seen = b"[DONE]" in self._tail
        self._waiting = None
        if waiting and not waiting.done():
            waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._waiting:
            self._finish(complete=False)

    def close(self) -> None:
        if self._transport:
            self._transport.abort()


async def connect(port: int) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", port
    )
    return connection
