"""An HTTP client that sends and returns the exact bytes on the wire."""

import socket
from collections.abc import Callable
from dataclasses import dataclass

Headers = list[tuple[str, str]]


@dataclass
class RawResponse:
    """``body`` is de-chunked; ``clean`` says whether the message ended as its framing promised."""

    status_line: str
    headers: Headers
    body: bytes
    clean: bool

    @property
    def status(self) -> int:
        return int(self.status_line.split(" ", 2)[1])

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class RawClient:
    """One connection."""

    def __init__(self, port: int, timeout: float = 20) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._buffer = bytearray()
        #: Whether the other side has reset the connection instead of closing it.
        self.was_reset = False
        #: What had come of a chunk that was cut.
        self.cut_chunk = b""

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *args: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, method: str, target: str, headers: Headers = [], body: bytes = b"") -> None:  # noqa: B006
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: test\r\n{lines}{length}\r\n"
        self.send(head.encode("latin-1") + body)

    def receive_more(self) -> bool:
        """Read once; False at the connection's end, be it a reset."""
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            self.was_reset = True
            return False
        self._buffer += data
        return bool(data)

    def read_head(self) -> tuple[str, Headers]:
        while b"\r\n\r\n" not in self._buffer:
            if not self.receive_more():
                raise EOFError(f"no head, only {bytes(self._buffer)!r}")
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer[:] = rest
        line, *lines = head.decode("latin-1").split("\r\n")
        return line, [(name, value.strip()) for name, _, value in (x.partition(":") for x in lines)]

    def read_response(
        self, method: str = "GET", midway: Callable[[], object] = lambda: None
    ) -> RawResponse:
        """``midway`` is called between head and body."""
        line, headers = self.read_head()
        status = int(line.split(" ", 2)[1])
        while status < 200:
            line, headers = self.read_head()
            status = int(line.split(" ", 2)[1])
        midway()
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        chunked = any(name.lower() == "transfer-encoding" for name, _ in headers)
        if method == "HEAD" or status in (204, 304):
            return RawResponse(line, headers, b"", clean=True)
        if chunked:
            body, clean = self._chunks()
        elif lengths:
            body, clean = self._exactly(int(lengths[0]))
        else:
            body = self._rest()
            clean = not self.was_reset
        return RawResponse(line, headers, body, clean)

    def read_chunk(self) -> bytes | None:
        """One chunk of a chunked body; ``b""`` for the last, None when it was cut."""
        line = self._line()
        if line is None:
            return None
        size = int(line.partition(b";")[0], 16)
        data, complete = self._exactly(size + 2)
        if not complete:
            self.cut_chunk = data[:size]
        return data[:-2] if complete else None

    def wait_for(self, data: bytes) -> None:
        """Until ``data`` is among the bytes that have come and not been taken yet."""
        while data not in self._buffer:
            if not self.receive_more():
                raise EOFError(f"no {data!r}, only {bytes(self._buffer)!r}")

    def take(self) -> bytes:
        """All that has come and not been taken yet."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def at_end(self) -> bool:
        """Whether the other side closes without another byte."""
        return not self._buffer and not self.receive_more()

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            data = self.read_chunk()
            if not data:
                return body + self.cut_chunk, data is not None
            body += data

    def _line(self) -> bytes | None:
        while b"\r\n" not in self._buffer:
            if not self.receive_more():
                return None
        line, _, rest = bytes(self._buffer).partition(b"\r\n")
        self._buffer[:] = rest
        return line

    def _exactly(self, count: int) -> tuple[bytes, bool]:
        while len(self._buffer) < count:
            if not self.receive_more():
                break
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data, len(data) == count

    def _rest(self) -> bytes:
        while self.receive_more():
            pass
        data = bytes(self._buffer)
        self._buffer.clear()
        return data
