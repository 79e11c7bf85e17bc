"""The pumps and the upgrade's head, over real sockets."""

from collections.abc import Iterator

import gevent
import gevent.socket
import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode

from proxy.gateway.inflight import ShuttingDown
from proxy.runtime import yielding
from proxy.runtime.yielding import STEP
from proxy.upstream import websocket as tunnel_module
from proxy.upstream.http1_codec import InvalidResponse
from proxy.upstream.websocket import (
    MAX_HEAD_BYTES,
    Tunnel,
    UpgradeResponse,
    close_frame,
    read_upgrade,
)
from tests.support.loop_probe import LoopProbe, served_while

MADE: list[gevent.socket.socket] = []


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while MADE:
        MADE.pop().close()


def pair() -> tuple[gevent.socket.socket, gevent.socket.socket]:
    made = gevent.socket.socketpair()
    MADE.extend(made)
    return made


def opened(*data: bytes):  # type: ignore[no-untyped-def]
    """The end of a connection on which ``data`` arrives, then the end."""
    ours, theirs = pair()
    for part in data:
        theirs.sendall(part)
    theirs.shutdown(gevent.socket.SHUT_WR)
    return ours, theirs


def test_a_101_and_the_bytes_behind_it() -> None:
    ours, _theirs = opened(b"HTTP/1.1 101 Switching\r\nA: 1\r\nB:  x \r\n\r\n\x81\x00rest")
    response = read_upgrade(ours)
    assert response.switched
    assert response.headers() == [("A", "1"), ("B", "x")]
    assert response.rest == b"\x81\x00rest"


def test_interim_responses_are_skipped_and_others_are_no_switch() -> None:
    ours, _theirs = opened(
        b"HTTP/1.1 103 Early\r\nA: 1\r\n\r\nHTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"
    )
    response = read_upgrade(ours)
    assert not response.switched
    assert response.raw == b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 101 Switch",
        b"SSH-2.0\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 101 x\r\nA: " + b"a" * MAX_HEAD_BYTES,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100_000,
    ],
)
def test_no_valid_head(data: bytes) -> None:
    ours, theirs = pair()
    writer = gevent.spawn(lambda: (theirs.sendall(data), theirs.close()))
    with pytest.raises(InvalidResponse):
        read_upgrade(ours)
    ours.close()
    writer.kill()


class Ends:
    """A tunnel with a client and an upstream at its ends."""

    def __init__(self) -> None:
        self.client, inner_client = pair()
        self.upstream, inner_upstream = pair()
        for sock in (self.client, self.upstream):
            sock.settimeout(20)
        self.seen = b""
        self.tunnel = Tunnel(inner_client, inner_upstream, self._see)
        self.running = gevent.spawn(self.tunnel.run)

    def _see(self, data: bytes) -> None:
        self.seen += data


def test_bytes_both_ways_and_both_closes() -> None:
    ends = Ends()
    ends.client.sendall(b"up")
    assert ends.upstream.recv(10) == b"up"
    ends.upstream.sendall(b"down!")
    assert ends.client.recv(10) == b"down!"
    ends.upstream.shutdown(gevent.socket.SHUT_WR)
    assert ends.client.recv(10) == b"", "the upstream's end passes"
    ends.client.sendall(b"bye")
    assert ends.upstream.recv(10) == b"bye", "the other direction goes on"
    ends.client.close()
    assert ends.upstream.recv(10) == b""
    ends.running.get(timeout=20)
    assert (ends.tunnel.bytes_in, ends.tunnel.bytes_out) == (5, 5)
    assert ends.seen == b"down!"


def test_a_side_that_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_module, "LINGER_SECONDS", 0.1)
    ends = Ends()
    ends.client.close()
    ends.running.get(timeout=20)


def test_a_broken_side_ends_both() -> None:
    ends = Ends()
    ends.upstream.close()
    ends.client.sendall(b"x")
    while True:
        try:
            ends.client.sendall(b"x" * 10_000)
            gevent.sleep(0)
        except OSError:
            break
    ends.running.get(timeout=20)


def test_an_interruption_comes_out() -> None:
    ends = Ends()
    gevent.sleep(0)
    ends.running.kill(ShuttingDown())
    assert isinstance(ends.running.value, ShuttingDown)


def test_a_close_frame_is_one_for_others() -> None:
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(close_frame(1008, "token_inactive"))
    (frame,) = protocol.received_frames()
    assert (frame.opcode, frame.payload) == (Opcode.CLOSE, (1008, "token_inactive"))


def test_no_close_frame_within_a_head() -> None:
    (client, ours), (theirs, _upstream) = pair(), pair()
    tunnel = Tunnel(ours, theirs, lambda _: None)
    opened = UpgradeResponse(theirs, b"HTTP/1.1 101 Switching", b"x" * 8 * 1024 * 1024)
    opening = gevent.spawn(tunnel.open, opened, [], b"")
    gevent.sleep(0.1)
    opening.kill(ShuttingDown())
    rest = client.recv(65536)  # there is room now
    tunnel.send_last(b"bye")
    ours.close()
    while data := client.recv(65536):
        rest += data
    assert rest.endswith(b"x")


@pytest.mark.parametrize("stuck", [False, True])
def test_a_close_frame_only_where_no_write_is_incomplete(stuck: bool) -> None:
    (client, ours), (theirs, upstream) = pair(), pair()
    tunnel = Tunnel(ours, theirs, lambda _: None)
    running = gevent.spawn(tunnel.run)
    if stuck:  # the client does not read
        writing = gevent.spawn(upstream.sendall, b"x" * 8 * 1024 * 1024)
        gevent.sleep(0.1)
        assert not writing.ready()
    else:
        upstream.sendall(b"hello")
        assert client.recv(5) == b"hello"
    running.kill(ShuttingDown())
    rest = client.recv(65536) if stuck else b""  # there is room now
    tunnel.send_last(b"bye")
    ours.close()
    theirs.close()
    while data := client.recv(65536):
        rest += data
    assert rest.endswith(b"bye") is not stuck
    if stuck:
        writing.kill()


class AlwaysReady:
    """A socket from which and to which bytes go without a wait."""

    def __init__(self) -> None:
        self.left = 1 << 60

    def recv(self, size: int) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return b"x" * size

    def sendall(self, data: bytes) -> None:
        pass

    def settimeout(self, seconds: float | None) -> None:
        pass

    def setsockopt(self, *option: int) -> None:
        pass

    def shutdown(self, how: int) -> None:
        pass


@pytest.mark.parametrize("greedy", ["client", "upstream"])
def test_a_side_that_never_pauses_leaves_others_their_turn(greedy: str) -> None:
    ends: dict[str, AlwaysReady] = {"client": AlwaysReady(), "upstream": AlwaysReady()}
    for name, end in ends.items():
        end.left = 1 << 60 if name == greedy else 0
    tunnel = Tunnel(ends["client"], ends["upstream"], lambda _: None)
    with LoopProbe() as other:
        before = other.served
        running = gevent.spawn(tunnel.run)
        while other.served - before < 3:
            gevent.sleep(0.001)
        ends[greedy].left = 0
        running.get(timeout=20)


def test_following_many_small_frames_leaves_others_their_turn() -> None:
    seen: list[bytes] = []
    tunnel = Tunnel(None, None, seen.append)
    data = b"x" * (STEP * 3 + 1)
    assert served_while(lambda: tunnel._sent_down(data)) >= 3
    assert max(map(len, seen)) == STEP
    assert tunnel.bytes_out == sum(map(len, seen))


def test_what_went_out_is_seen_whatever_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    def turn() -> None:
        raise ShuttingDown

    monkeypatch.setattr(yielding, "turn_if_due", turn)
    seen: list[bytes] = []
    tunnel = Tunnel(None, None, seen.append)
    with pytest.raises(ShuttingDown):
        tunnel._sent_down(b"x" * (STEP * 3))
    assert sum(map(len, seen)) == STEP * 3
