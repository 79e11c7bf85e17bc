"""An HTTP client that sends and returns the exact bytes on the wire."""

import socket
from collections.abc import Callable
from dataclasses import dataclass

from proxy.tools.http1_reader import ResponseReader

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
        self.reader = ResponseReader()

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
            return False
        self.reader.feed(data)
        return bool(data)

    def read_head(self, method: str = "GET") -> tuple[str, Headers]:
        """The next head, be it of a 1xx response."""
        self.reader = ResponseReader(method, self.reader.take())
        while (head := self.reader.next_head()) is None:
            if self.reader.problem or not self.receive_more():
                raise EOFError(f"no head, only {self.reader.unread!r}")
        return head.line, list(head.headers)

    def read_response(
        self, method: str = "GET", midway: Callable[[], object] = lambda: None
    ) -> RawResponse:
        """``midway`` is called between head and body."""
        line, headers = self.read_head(method)
        while self.reader.head is None:
            line, headers = self.read_head(method)
        midway()
        body, clean = self.read_body()
        return RawResponse(line, headers, body, clean)

    def read_body(self) -> tuple[bytes, bool]:
        """What has not been read of the body, and whether it came to its end."""
        body = [self.reader.read_body()]
        while not self.reader.ended and not self.reader.problem and self.receive_more():
            body.append(self.reader.read_body())
        body.append(self.reader.read_body())  # of which the connection may be the end
        return b"".join(body), self.reader.ended

    def read_chunk(self) -> bytes | None:
        """One chunk of a chunked body; ``b""`` for the last, None when it was cut."""
        before = self.reader.chunks
        data = self.reader.read_chunk()
        while self.reader.chunks == before and not self.reader.ended:
            if self.reader.problem or not self.receive_more():
                return None
            data += self.reader.read_chunk()
        return data

    def wait_for(self, data: bytes) -> None:
        """Until ``data`` is among the bytes that have come and not been taken yet."""
        while data not in self.reader.unread:
            if not self.receive_more():
                raise EOFError(f"no {data!r}, only {self.reader.unread!r}")

    def take(self) -> bytes:
        """All that has come and not been taken yet."""
        return self.reader.take()

    def at_end(self) -> bool:
        """Whether the other side closes without another byte."""
        return not self.reader.unread and not self.receive_more()
