"""One connection, one request after the other, on a plain blocking socket.

No library between the clock and the socket: what it measures is the way, not the client.
"""

import socket
import time
from types import TracebackType

from bench.load.wrk import LoadFailed
from proxy.tools.http1_reader import ResponseReader


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
        reader = ResponseReader()
        while not reader.ended:
            data = self._socket.recv(65536)
            taken = time.perf_counter_ns() - start
            reader.read(data)
            if reader.problem:
                raise LoadFailed(reader.problem)
        if reader.head is None or reader.head.status != 200:
            raise LoadFailed(f"not 200: {reader.head and reader.head.raw!r}")
        return taken / 1e6
