"""The options of all connections to Redis (`proxy/runtime/redis.py`), against odd servers."""

import contextlib
import socket
from collections.abc import Iterator
from threading import Thread

import pytest
from gevent.server import StreamServer
from redis import Redis, RedisError, ResponseError

from proxy.runtime.redis import ReadOnlyServer, connection_options


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failure_is_raised_after_all_retries(retries: int) -> None:
    tries = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    said = connection.recv(4096)
                    if said == b"enough":
                        return
                    tries.append(said)

        server = Thread(target=hang_up, daemon=True)
        server.start()
        client = Redis.from_url(
            f"redis://127.0.0.1:{port}", **connection_options(5.0, 5.0, retries=retries)
        )
        with pytest.raises(RedisError):
            client.get("key")
        with socket.create_connection(("127.0.0.1", port)) as last:
            last.sendall(b"enough")
            server.join(20)
    assert len(tries) == 1 + retries
    # Nothing of the newer protocol, in which responses have other shapes.
    assert not any(b"HELLO" in said for said in tries)


def test_a_silent_server_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = Redis.from_url(f"redis://127.0.0.1:{port}", **connection_options(5.0, 0.05))
        with pytest.raises(RedisError):
            client.get("key")


class Replies:
    """A server that responds to the SET commands of each connection with replies of its own."""

    def __init__(self, *connections: list[bytes]) -> None:
        self._connections = list(connections)
        self.served = 0
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()

    def _serve(self, connection: socket.socket, _address: object) -> None:
        replies = self._connections[self.served]
        self.served += 1
        while said := connection.recv(4096):
            # What the library reports of itself first.
            connection.sendall(b"+OK\r\n" * said.count(b"SETINFO"))
            if b"$3\r\nSET\r\n" in said:
                connection.sendall(replies.pop(0))

    @contextlib.contextmanager
    def client(self, retries: int = 0) -> Iterator[Redis]:
        url = f"redis://127.0.0.1:{self._server.server_port}"
        options = connection_options(5.0, 5.0, retries=retries, url=url)
        try:
            with Redis.from_url(url, **options) as client:
                yield client
        finally:
            self._server.stop(timeout=0)


SCRIPT = (
    b"-ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write against a "
    b"read only replica.\r\n"
)


@pytest.mark.parametrize(
    "refusal",
    [
        b"-READONLY You can't write against a read only replica.\r\n",
        SCRIPT,
        b"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
    ],
)
def test_a_connection_to_what_is_no_primary_is_closed(refusal: bytes) -> None:
    server = Replies([b"+OK\r\n", refusal], [b"+OK\r\n"])
    with server.client() as client:
        assert client.set("key", "1")
        with pytest.raises(ReadOnlyServer):
            client.set("key", "2")
        assert client.set("key", "3"), "over a new one"
    assert server.served == 2


def test_one_that_may_be_tried_again_is_not_noticed() -> None:
    server = Replies([b"+OK\r\n", b"-READONLY replica.\r\n"], [b"+OK\r\n"])
    with server.client(retries=1) as client:
        assert client.set("key", "1")
        assert client.set("key", "2")
    assert server.served == 2


def test_another_refusal_keeps_the_connection() -> None:
    server = Replies([b"-WRONGTYPE Operation against a key\r\n", b"+OK\r\n"])
    with server.client() as client:
        with pytest.raises(ResponseError):
            client.set("key", "1")
        assert client.set("key", "2")
    assert server.served == 1


@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix"])
def test_every_kind_of_address_follows(scheme: str) -> None:
    url = f"{scheme}:///tmp/socket" if scheme == "unix" else f"{scheme}://127.0.0.1:1"
    client = Redis.from_url(url, **connection_options(1.0, 1.0, url=url))
    plain = Redis.from_url(url).connection_pool.connection_class
    assert issubclass(client.connection_pool.connection_class, plain)
    assert client.connection_pool.connection_class is not plain
