"""One connection, one request after the other, on a plain blocking socket.

No library between the clock and the socket: what it measures is the way, not the client.
"""

import socket
import time
from types import TracebackType

from bench.load.wrk import LoadFailed


class BlockingClient:
    def __init__(self, port: int, request: bytes) -> None:
        self._request = request
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> "BlockingClient":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def ask(self) -> float:
        """Milliseconds from the first byte sent to the last byte received."""
        start = time.perf_counter_ns()
        self._socket.sendall(self._request)
        answer = self._socket.recv(65536)
        while not whole(answer):
            more = self._socket.recv(65536)
            if not more:
                raise LoadFailed(f"the connection was closed within an answer: {answer[:200]!r}")
            answer += more
        taken = time.perf_counter_ns() - start
        if not answer.startswith(b"HTTP/1.1 200"):
            raise LoadFailed(f"not 200: {answer[:300]!r}")
        return taken / 1e6


def whole(answer: bytes) -> bool:
    """Whether the answer, with a length or in chunks, is there to its last byte."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        return len(body) >= int(lower[at + 17 :].split(b"\r\n", 1)[0])
    return body.endswith(b"0\r\n\r\n")
