"""What every connection to Redis is told (``proxy/redisoptions.py``), seen by odd servers."""

import socket
from threading import Thread

import pytest
from redis import Redis, RedisError

from proxy.redisoptions import connection_options


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failure_is_told_after_as_many_tries_as_were_asked_for(retries: int) -> None:
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
    # Nothing of the newer protocol, in which answers have other shapes.
    assert not any(b"HELLO" in said for said in tries)


def test_a_silent_server_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = Redis.from_url(f"redis://127.0.0.1:{port}", **connection_options(5.0, 0.05))
        with pytest.raises(RedisError):
            client.get("key")
