"""A server that responds with given bytes, for the tests of `manage.py bench`."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from gevent.server import StreamServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#: Bytes to send, a callable to run, or None to close the connection.
Script = list[bytes | Callable[[], object] | None]


class BenchServer:
    """Every request is answered by the next script, the last one again and again."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = list(scripts)
        self.connections = 0
        self.requests: list[bytes] = []
        more: dict[str, Any] = {"ssl_context": tls} if tls else {}
        self._server = StreamServer(("127.0.0.1", 0), self._serve, **more)
        self._server.start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.stop(timeout=1)

    def _serve(self, sock: socket.socket, _: object) -> None:
        with suppress(OSError), sock:
            request = sock.recv(65536)
            self.connections += bool(request)  # not the one that only looks for the address
            while request:
                self.requests.append(request)
                script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
                for step in script:
                    if step is None:
                        return
                    if isinstance(step, bytes):
                        sock.sendall(step)
                    else:
                        step()
                request = sock.recv(65536)


Serve = Callable[..., BenchServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[BenchServer] = []

    def start(*scripts: Script, tls: ssl.SSLContext | None = None) -> BenchServer:
        servers.append(BenchServer(*scripts, tls=tls))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
