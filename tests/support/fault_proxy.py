"""A TCP proxy that injects faults: it refuses, slows, cuts, or responds itself."""

import contextlib
import socket
import struct
from collections.abc import Callable

import gevent
from gevent.server import StreamServer

#: What a connection meets: called with the client's socket and one to the target, until it returns.
Trouble = Callable[[socket.socket, socket.socket], None]


class Middleman:
    """Stands before ``target_port``. ``trouble`` None passes everything; it may be set any time.

    ``calls`` counts the connections that came, ``hindered`` those of them that met a trouble.
    """

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self.trouble: Trouble | None = None
        self.calls = 0
        self.hindered = 0
        self._open: set[socket.socket] = set()
        self._server = StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()
        self.port: int = self._server.server_port

    def close(self) -> None:
        self._server.stop(timeout=0)

    def lead_to(self, target_port: int) -> None:
        """New connections go there; those that are open stay, as at a failover."""
        self._target = ("127.0.0.1", target_port)

    def meet(self, trouble: Trouble | None) -> None:
        """From now on; connections that are open are cut, so that they meet it too."""
        self.trouble = trouble
        for connection in list(self._open):
            reset(connection)

    def _handle(self, client: socket.socket, _address: object) -> None:
        self.calls += 1
        trouble = self.trouble
        self.hindered += trouble is not None
        self._open.add(client)
        with contextlib.suppress(OSError), client, socket.create_connection(self._target) as target:
            self._open.add(target)
            try:
                (trouble or passing)(client, target)
            finally:
                self._open -= {client, target}
        self._open.discard(client)


def reset(connection: socket.socket) -> None:
    """RST instead of FIN."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _pump(source: socket.socket, sink: socket.socket, pause: float = 0, size: int = 65536) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(size):
            gevent.sleep(pause)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def passing(client: socket.socket, target: socket.socket) -> None:
    up = gevent.spawn(_pump, client, target)
    _pump(target, client)
    up.join()


def refused(client: socket.socket, _target: socket.socket) -> None:
    reset(client)


def silent(client: socket.socket, _target: socket.socket) -> None:
    """Takes everything and never answers."""
    while client.recv(65536):
        pass


def slow(client: socket.socket, target: socket.socket) -> None:
    up = gevent.spawn(_pump, client, target, 0.01, 16384)
    _pump(target, client, 0.01)
    up.join()


def cut_after(count: int) -> Trouble:
    """The target gets ``count`` bytes, then both sides are reset."""

    def trouble(client: socket.socket, target: socket.socket) -> None:
        down = gevent.spawn(_pump, target, client)
        left = count
        while left > 0 and (data := client.recv(left)):
            target.sendall(data)
            left -= len(data)
        down.kill()
        reset(target)
        reset(client)

    return trouble


def answer_lost(client: socket.socket, target: socket.socket) -> None:
    """The target takes the request and answers; the answer does not arrive."""
    up = gevent.spawn(_pump, client, target)
    target.recv(1)
    reset(client)
    up.join()


def answering(answer: bytes) -> Trouble:
    """Answers whatever comes, first, with ``answer``."""

    def trouble(client: socket.socket, _target: socket.socket) -> None:
        with contextlib.suppress(TimeoutError):
            client.settimeout(0.05)
            while client.recv(65536):
                pass
        client.settimeout(None)
        client.sendall(answer)

    return trouble


def http(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
