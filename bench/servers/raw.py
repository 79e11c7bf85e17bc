"""The raw relay: two gevent sockets and nothing between them. No Python proxy can be cheaper.

It swaps the Authorization line, relays the bytes of one request and of its response, and keeps the
upstream connection. There is no parser, no check, no metering and no time limit: nobody should run
it. Run as `python -m bench.servers.raw`; reads PORT, UPSTREAM and WEB_CONCURRENCY.
"""

import os
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import gevent
import gevent.socket
from gevent.server import StreamServer

_READ_SIZE: Final = 65536
_HEAD_END: Final = b"\r\n\r\n"
_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_KEY: Final = b"\r\nAuthorization: Bearer sk-upstream"
_READY: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Relay:
    """Serves client connections, each on a pooled upstream connection while it has a request."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._idle: list[Any] = []

    def serve(self, client: Any, address: object) -> None:
        """One client connection, until it ends."""
        try:
            while request := _read_request(client):
                if request.startswith(b"GET /ready "):
                    client.sendall(_READY)
                    return
                upstream = self._idle.pop() if self._idle else self._connect()
                upstream.send(_with_our_key(request))
                if not _relay_response(upstream.recv, client.send):
                    upstream.close()
                    return
                self._idle.append(upstream)
        except OSError:
            pass  # One side is gone; the other learns it from the connection's end.
        finally:
            client.close()

    def _connect(self) -> Any:
        return gevent.socket.create_connection(self._upstream)


def _read_request(client: Any) -> bytes:
    """The bytes of one request of known length; empty when the client has closed."""
    data: bytes = client.recv(_READ_SIZE)
    while data:
        end = data.find(_HEAD_END)
        if end >= 0 and len(data) >= end + 4 + _content_length(data[:end]):
            break
        more = client.recv(_READ_SIZE)
        if not more:
            return b""
        data += more
    return data


def _relay_response(receive: Callable[[int], bytes], send: Callable[[bytes], int]) -> bool:
    """Each piece as it comes. Returns whether the response came to its end."""
    data = receive(_READ_SIZE)
    while data and data.find(_HEAD_END) < 0:
        more = receive(_READ_SIZE)
        if not more:
            return False
        data += more
    head, _, body = data.partition(_HEAD_END)
    chunked = b"transfer-encoding: chunked" in head.lower()
    left = 0 if chunked else _content_length(head) - len(body)
    while data:
        send(data)
        tail = data[-len(_LAST_CHUNK) :]
        if tail == _LAST_CHUNK if chunked else left <= 0:
            return True
        data = receive(_READ_SIZE)
        left -= len(data)
    return False


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    start = lowered.find(b"\r\ncontent-length:")
    return int(head[start + 17 :].split(b"\r\n", 1)[0]) if start >= 0 else 0


def _with_our_key(request: bytes) -> bytes:
    start = request.find(b"\r\nAuthorization:")
    if start < 0:
        return request
    return request[:start] + _KEY + request[request.find(b"\r\n", start + 2) :]


def main() -> None:
    address = urlsplit(os.environ["UPSTREAM"])
    relay = Relay((address.hostname or "", address.port or 80))
    server = StreamServer(("127.0.0.1", int(os.environ["PORT"])), relay.serve, backlog=4096)
    server.init_socket()
    for _ in range(int(os.environ["WEB_CONCURRENCY"]) - 1):
        if not gevent.fork():
            break
    server.serve_forever()


if __name__ == "__main__":
    main()
