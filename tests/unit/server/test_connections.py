"""On socket pairs; what a stop makes of it is shown by the end-to-end tests."""

import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest

from proxy.server.connections import BODY_GRACE_SECONDS, ClientBytes, Connections, linger
from tests.support.loop_probe import LoopProbe, served_while


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


def test_a_reader_sees_the_end_of_its_client_and_may_respond(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    connections = Connections()
    connections.open.add(ours)
    waiting = gevent.spawn(ours.recv, 1)
    gevent.sleep(0)
    connections.shutdown_reads()
    assert waiting.get(timeout=20) == b""
    ours.sendall(b"response")
    assert theirs.recv(8) == b"response"


def test_a_connection_that_was_just_closed_ends_no_wait(pair: tuple[Any, Any]) -> None:
    connections = Connections()
    closed, _ = gevent.socket.socketpair()
    closed.close()
    ours, _ = pair
    for client in (closed, ours):
        connections.open.add(client)
    connections.idle[closed] = True, 0.0
    connections.close_idle(lambda served, since: True)
    connections.shutdown_reads()
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
def test_reading_a_client_leaves_others_their_turn(wanted: int | None) -> None:
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
    with LoopProbe() as other:
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


class Full:
    """Connections of which ``most`` may be open; both ends of each are kept."""

    def __init__(self, most: int, share: float = 0.5) -> None:
        self.connections = Connections(most, share)
        self.pairs: list[tuple[Any, Any]] = []

    def open(self, address: str = "10.0.0.1") -> int:
        """A new connection; its number."""
        ours, theirs = gevent.socket.socketpair()
        theirs.settimeout(20)
        self.pairs.append((ours, theirs))
        self.connections.add(ours, (address, 1))
        return len(self.pairs) - 1

    def serve(self, number: int) -> None:
        """A request of it has been answered; it waits for the next."""
        ours, _ = self.pairs[number]
        self.connections.silent.pop(ours, None)
        self.connections.idle[ours] = True, float(number)

    @property
    def ended(self) -> list[int]:
        found = []
        for number, (_, theirs) in enumerate(self.pairs):
            with contextlib.suppress(BlockingIOError):
                if theirs._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                    found.append(number)
        return found

    def close(self) -> None:
        for ours, theirs in self.pairs:
            if ours in self.connections.open:
                self.connections.remove(ours)
            ours.close()
            theirs.close()


@pytest.fixture
def full(request: pytest.FixtureRequest) -> Iterator[Full]:
    made = Full(10, getattr(request, "param", 0.5))
    yield made
    made.close()
    connections = made.connections
    for kept in (connections.open, connections.silent, connections._addresses):
        assert not kept
    assert not connections._shares.held


def test_who_never_sent_a_request_makes_room_first(full: Full) -> None:
    """The oldest of them, one for each new connection."""
    for number in range(8):
        full.open()
        if number in (0, 3):
            full.serve(number)
    assert full.ended == []
    full.open("10.0.0.2")
    assert full.ended == [1]
    full.open("127.0.0.1")
    assert full.ended == [1, 2]
    full.pairs[4][1].sendall(b"G")
    full.open("10.0.0.2")
    assert full.ended == [1, 2, 5], "a request has just come on the fourth"


def test_room_is_made_without_a_new_one_too(full: Full) -> None:
    """Where none can be accepted any more; bytes that were unread then have been read since."""
    for _ in range(9):
        full.open()
        full.pairs[-1][1].sendall(b"G")
    full.connections.relieve()
    assert full.ended == []
    for ours, _ in full.pairs[3:5]:
        ours.recv(1)
    full.connections.relieve()
    assert full.ended == [3]
    full.connections.remove(full.pairs[3][0])
    full.connections.relieve()
    assert full.ended == [3], "eight are not too many"


def test_then_idle_ones_of_an_address_that_has_its_share(full: Full) -> None:
    for number in range(8):
        full.open("10.0.0.1" if number < 5 else "10.0.0.2")
        full.serve(number)
    full.open("10.0.0.2")
    full.serve(8)
    assert full.ended == [], "of the second address there are three"
    full.open("10.0.0.1")
    assert full.ended == [0]


@pytest.mark.parametrize("full", [1.0], indirect=True)
def test_without_shares_only_silent_ones_make_room(full: Full) -> None:
    for number in range(9):
        full.open()
        full.serve(number)
    full.open()
    full.open()
    assert full.ended == [9]


def test_local_addresses_have_no_share(full: Full) -> None:
    for number in range(9):
        full.open("127.0.0.1")
        full.serve(number)
    full.open("127.0.0.1")
    assert full.ended == []


class Dripping:
    """A socket whose client lets each read wait, in a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, timeout: float | None = 60.0) -> None:
        self.timeout = timeout
        self.now = 100.0
        self.wait = 0.0
        self.data = b"x"
        self._arrived = False
        self._sock = SimpleNamespace(recv=self._recv)
        monkeypatch.setattr("proxy.server.connections.time.monotonic", lambda: self.now)
        monkeypatch.setattr("proxy.server.connections.wait_for_bytes", self._until)

    def recv(self, size: int) -> bytes:
        self.now += self.wait
        return self.data

    def _recv(self, size: int) -> bytes:
        if self.wait and not self._arrived:
            raise BlockingIOError
        self._arrived = False
        return self.data

    def _until(self, sock: object, seconds: float) -> None:
        assert sock is self
        if self.wait > seconds:
            self.now += seconds
            raise TimeoutError
        self.now += self.wait
        self._arrived = True


def reads(source: ClientBytes, most: int = 10_000) -> int:
    """How many reads it takes until it is too slow."""
    for number in range(most):
        try:
            source.chunk()
        except TimeoutError:
            assert source.sock.timeout == 60.0
            return number
    return most


def test_a_body_must_keep_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Dripping(monkeypatch)
    source = ClientBytes(client, 1024)
    source.credit = BODY_GRACE_SECONDS
    client.wait = 0.5
    assert reads(source) == 20, "a byte each half second: for ten seconds"
    source.credit, client.data = BODY_GRACE_SECONDS, b"x" * 513
    assert reads(source) == 10_000
    # It has been fast, and stops: it is not waited for longer than any client.
    client.data, client.wait = b"x" * 100_000, 0.0
    source.chunk()
    client.data, client.wait = b"x", 61.0
    began = client.now
    with pytest.raises(TimeoutError):
        source.chunk()
    assert client.now - began == 60


def test_one_read_is_bounded_by_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Dripping(monkeypatch)
    source = ClientBytes(client, 1024)
    source.credit = BODY_GRACE_SECONDS
    client.wait = 50.0
    began = client.now
    assert reads(source) == 0
    assert client.now - began == BODY_GRACE_SECONDS


def test_only_bodies_have_a_rate_and_only_if_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Dripping(monkeypatch)
    client.wait = 59.0
    for rate, credit in ((1024, None), (0, BODY_GRACE_SECONDS)):
        source = ClientBytes(client, rate)
        source.credit = credit
        assert reads(source, 100) == 100


def test_what_others_take_their_time_for_is_not_the_client_s_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Dripping(monkeypatch, None)
    source = ClientBytes(client, 1024)
    source.credit = BODY_GRACE_SECONDS
    for _ in range(100):
        source.chunk()
        client.now += 100
    assert client.timeout is None


def test_the_rate_of_a_body_is_no_timeout_of_its_response(pair: tuple[Any, Any]) -> None:
    """Which may be written while the client still sends."""
    ours, theirs = pair
    ours.settimeout(60.0)
    source = ClientBytes(ours, 1024)
    source.credit = BODY_GRACE_SECONDS
    reading = gevent.spawn(source.chunk)
    gevent.idle()
    assert not reading.ready()
    assert ours.timeout == 60.0
    theirs.sendall(b"more")
    assert reading.get(timeout=10) == b"more"
