"""On socket pairs; what a stop makes of it is shown by the end-to-end tests."""

from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from proxy.http1.connections import ClientBytes, Connections, linger
from tests.bystander import Bystander, served_while


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        theirs.settimeout(20)
        yield ours, theirs


def test_idle_is_shut_and_a_request_that_just_came_is_not(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    connections = Connections()
    connections.idle[ours] = True, 0.0
    theirs.sendall(b"G")
    gevent.sleep(0)
    connections.close_idle(lambda served, since: True)
    assert ours.recv(1) == b"G"
    connections.close_idle(lambda served, since: False)
    theirs.sendall(b"E")
    assert ours.recv(1) == b"E"
    connections.close_idle(lambda served, since: (served, since) == (True, 0.0))
    assert theirs.recv(1) == b""
    connections.close_idle(lambda served, since: True)  # closed already: nothing to do


def test_who_waits_for_a_client_sees_its_end_and_may_answer(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    connections = Connections()
    connections.open.add(ours)
    waiting = gevent.spawn(ours.recv, 1)
    gevent.sleep(0)
    connections.end_waits()
    assert waiting.get(timeout=20) == b""
    ours.sendall(b"answer")
    assert theirs.recv(6) == b"answer"


def test_a_connection_that_was_just_closed_ends_no_wait(pair: tuple[Any, Any]) -> None:
    connections = Connections()
    closed, _ = gevent.socket.socketpair()
    closed.close()
    ours, _ = pair
    for client in (closed, ours):
        connections.open.add(client)
    connections.idle[closed] = True, 0.0
    connections.close_idle(lambda served, since: True)
    connections.end_waits()
    assert ours.recv(1) == b""


class AlwaysReady:
    """A client whose bytes never have to be waited for; ``left``: how many there are."""

    def __init__(self, left: int = 1 << 60) -> None:
        self.left = left
        self.sizes: list[int] = []
        self.closed = False

    def recv(self, size: int) -> bytes:
        self.sizes.append(size)
        size = min(size, self.left)
        self.left -= size
        return b"x" * size

    def settimeout(self, seconds: float) -> None:
        pass

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("wanted", [None, 1 << 30])
def test_whoever_reads_a_client_leaves_others_their_turn(wanted: int | None) -> None:
    reader = ClientBytes(AlwaysReady())
    assert served_while(lambda: reader.chunk(wanted)) >= 3


def test_one_read_is_bounded() -> None:
    client = AlwaysReady()
    reader = ClientBytes(client)
    for wanted in (None, 0, 100, 20_000, 1 << 30):
        reader.chunk(wanted)
    assert client.sizes == [16384, 16384, 16384, 20_000, 65536]


def test_lingering_ends_however_much_a_client_sends() -> None:
    """And others are served meanwhile: as often as that takes slices."""
    with Bystander() as other:
        before, rounds = other.served, 0
        while other.served - before < 3 and rounds < 1000:
            client = AlwaysReady()
            linger(client)
            assert client.closed
            rounds += 1
        assert other.served - before >= 3


def test_lingering_ends_with_the_client(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    ours.sendall(b"last")
    theirs.sendall(b"still sending")
    theirs.close()
    linger(ours)
    assert ours.closed
    linger(ours)  # a connection that is closed already is none to wait for
