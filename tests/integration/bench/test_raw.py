"""The raw relay: the bytes of both sides, the key swapped, a response that breaks off is seen."""

from collections.abc import Callable, Iterator

import gevent
import gevent.socket
import pytest
from gevent.server import StreamServer

from bench.load.message import chat
from bench.servers.raw import Relay

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"


class Upstream:
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.connections = 0
        self.response = SIZED
        self.server = StreamServer(("127.0.0.1", 0), self._serve)
        self.server.start()

    def _serve(self, sock: gevent.socket.socket, address: object) -> None:
        self.connections += 1
        while data := sock.recv(65536):
            self.received.append(data)
            half = len(self.response) // 2
            sock.sendall(self.response[:half])
            gevent.sleep(0.01)
            sock.sendall(self.response[half:])


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.server.stop()


@pytest.fixture
def ask(upstream: Upstream) -> Iterator[Callable[[bytes, bytes], bytes]]:
    client, served = gevent.socket.socketpair()
    client.settimeout(20)
    relay = gevent.spawn(Relay(("127.0.0.1", upstream.server.server_port)).serve, served, None)

    def exchange(request: bytes, end: bytes) -> bytes:
        client.sendall(request)
        received = b""
        while not received.endswith(end) and (data := client.recv(65536)):
            received += data
        return received

    yield exchange
    client.close()
    relay.join(20)
    assert relay.dead


@pytest.mark.parametrize("response", [SIZED, CHUNKED])
def test_two_requests_on_one_connection_of_each_side(
    upstream: Upstream, ask: Callable[[bytes, bytes], bytes], response: bytes
) -> None:
    upstream.response = response
    for _ in range(2):
        assert ask(chat(80, "sk-client", {}), response[-5:]) == response
    assert upstream.connections == 1
    assert b"Authorization: Bearer sk-upstream\r\n" in upstream.received[0]
    assert b"sk-client" not in b"".join(upstream.received)


def test_a_request_that_comes_in_pieces(
    upstream: Upstream, ask: Callable[[bytes, bytes], bytes]
) -> None:
    request = chat(80, "sk-client", {})
    assert ask(request[:50], b"") == b""
    assert ask(request[50:], b"hello") == SIZED
    assert upstream.received[0].endswith(request[-20:])
