"""When a request whose connection broke may be sent again."""

import socket
import struct

import pytest

from proxy.upstream import stale
from proxy.upstream.stale import is_stale, round_trip


class Sock:
    """Answers TCP_INFO with a round trip of so many seconds; None: it fails."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if self._seconds is None:
            raise OSError
        return struct.pack("=68xI", int(self._seconds * 1e6))[:size]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_idempotent_methods_are_repeated(method: str) -> None:
    assert is_stale(method, Sock(0.001), 1.9, cut=True)
    assert not is_stale(method, Sock(0.001), 2.0, cut=False)


@pytest.mark.parametrize("method", ["POST", "PATCH", "PROPFIND", "get", "", None])
@pytest.mark.parametrize(
    ("trip", "window"),
    [(0.0001, 0.05), (0.03, 0.06), (0.045, 0.09), (0.2, 0.1), (9.0, 0.1), (None, 0.05)],
)
def test_others_only_within_a_round_trip(
    method: str | None, trip: float | None, window: float
) -> None:
    sock = Sock(trip)
    assert is_stale(method, sock, window - 0.001, cut=False)
    assert not is_stale(method, sock, window, cut=False)
    assert not is_stale(method, sock, 0.0, cut=True)


def test_the_kernel_knows_the_round_trip() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.sendall(b"x")
        accepted.recv(1)
        assert 0.0 < round_trip(client) < 1.0
        client.close()
        accepted.close()
    assert round_trip(client) == 0.0


def test_a_system_that_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stale, "_TCP_INFO", None)
    assert round_trip(Sock(5.0)) == 0.0
