"""A loopback upstream whose every byte a test decides about: one function per connection."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Request:
    """As it came: ``body`` is undone of its chunks, ``whole`` tells whether its end was seen."""

    line: bytes
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Connection:
    """The server's side of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""
        #: Set when the other side has closed, in whichever way, and somebody looked.
        self.ended = Event()

    def request(self) -> Request | None:
        """The next request, whole or cut; None when the connection ended before one."""
        head = self.head()
        if head is None:
            return None
        line, headers = head
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        if ("Transfer-Encoding", "chunked") in headers:
            body, whole = self._chunks()
        else:
            body = self._take(int(lengths[0]) if lengths else 0)
            whole = len(body) == (int(lengths[0]) if lengths else 0)
        return Request(line, headers, body, whole)

    def head(self) -> tuple[bytes, list[tuple[str, str]]] | None:
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        line, *lines = head.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = [one.partition(": ") for one in lines]
        return line.encode("latin-1"), [(name, value) for name, _, value in pairs]

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def wait_end(self) -> bytes:
        """Whatever still comes, until the other side closes."""
        rest, self._buffer = self._buffer, b""
        while data := self._receive():
            rest += data
        return rest

    def _receive(self) -> bytes:
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.ended.set()
        return data

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            data = self._receive()
            if not data:
                return None
            self._buffer += data
        taken, _, self._buffer = self._buffer.partition(mark)
        return taken + mark

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            data = self._receive()
            if not data:
                break
            self._buffer += data
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while (line := self._until(b"\r\n")) is not None:
            size = int(line, 16)
            piece = self._take(size + 2)
            if len(piece) < size + 2:
                break
            if size == 0:
                return body, True
            body += piece[:-2]
        return body, False


Handler = Callable[[Connection], None]


class WireServer:
    """Calls ``handler`` with each connection, in a greenlet of its own."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self._server = StreamServer(("127.0.0.1", 0), self._serve, spawn=Pool())
        self._server.start()
        scheme = "https" if tls else "http"
        self.port: int = self._server.server_port
        self.host = f"127.0.0.1:{self.port}"
        self.origin = f"{scheme}://{self.host}"

    def stop(self) -> None:
        self._server.stop(timeout=0)

    def _serve(self, sock: socket.socket, address: object) -> None:
        # A peer that refuses our certificate, or leaves, is not this server's trouble.
        with contextlib.suppress(OSError):
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            connection = Connection(sock)
            self.connections.append(connection)
            try:
                self._handler(connection)
            finally:
                sock.close()


def answering(server: "list[WireServer]", *answers: bytes) -> Handler:
    """Keeps connections and answers each request with the next of ``answers``, then the last."""

    def handler(connection: Connection) -> None:
        while (request := connection.request()) is not None:
            server[0].requests.append(request)
            count = len(server[0].requests)
            connection.send(answers[min(count, len(answers)) - 1])

    return handler


def pause() -> None:
    """Long enough for what was sent to arrive apart; correctness never hangs on it."""
    gevent.sleep(0.01)
