"""When things arrive: in the order in which they were let go, never held for more to come.

The stand-in lets go of one piece for each permit of its gate; no clock is read.
"""

import ctypes
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
import sseclient
from openai._streaming import SSEDecoder

from tests.support.fake_upstream import Upstream
from tests.support.odd_responses import gated_pieces
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import UPSTREAM_KEY, ProxyServer

pytestmark = pytest.mark.usefixtures("upstream")


def _open(port: int, name: str, token: str) -> RawClient:
    client = RawClient(port)
    client.request("GET", f"/v1/behave/{name}", [("Authorization", f"Bearer {token}")])
    return client


@pytest.mark.parametrize("name", ["gated-sse", "gated-binary"])
def test_each_chunk_arrives_before_the_next_is_let_go(
    proxy: ProxyServer, upstream: Upstream, access: Access, name: str
) -> None:
    with _open(proxy.port, name, access.token) as client:
        assert " 200 " in client.read_head()[0], "the head does not wait for a body"
        for piece in gated_pieces():
            upstream.gate.release()
            assert client.read_chunk() == piece
        assert client.read_chunk() == b""
    assert proxy.events(1)[0]["outcome"] == "completed"


@pytest.mark.parametrize("name", ["gated-length", "gated-until-close"])
def test_each_piece_without_chunks_arrives_too(
    proxy: ProxyServer, upstream: Upstream, access: Access, name: str
) -> None:
    with _open(proxy.port, name, access.token) as client:
        client.read_head()
        for piece in gated_pieces():
            upstream.gate.release()
            client.wait_for(piece)
            taken = client.take()
            if name == "gated-length":
                assert taken == piece
    proxy.events(1)


def test_each_piece_arrives_at_an_old_client_too(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with RawClient(proxy.port) as client:
        client.send(
            b"GET /v1/behave/gated-sse HTTP/1.0\r\nAuthorization: Bearer "
            + access.token.encode()
            + b"\r\n\r\n"
        )
        client.read_head()
        for piece in gated_pieces():
            upstream.gate.release()
            client.wait_for(piece)
            assert client.take() == piece
        assert client.at_end()
    proxy.events(1)


def test_an_event_in_two_writes_arrives_in_two(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with _open(proxy.port, "split-event", access.token) as client:
        client.read_head()
        for half in (b'data: {"a"', b": 1}\n\n", b"data: [DO", b"NE]\n\n"):
            upstream.gate.release()
            assert client.read_chunk() == half
        assert client.read_chunk() == b""
    proxy.events(1)


def test_what_has_come_of_a_chunk_does_not_wait_for_its_rest(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with _open(proxy.port, "split-chunk", access.token) as client:
        client.read_head()
        for part in (b"data", b": 12345", b"\n\n"):
            upstream.gate.release()
            assert client.read_chunk() == part
        assert client.read_chunk() == b""
    proxy.events(1)


def test_an_upload_arrives_piece_by_piece(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    """The upstream has each piece before the next is sent, the answer comes after the last."""
    with RawClient(proxy.port) as client:
        client.send(
            b"POST /v1/behave/digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer " + access.token.encode() + b"\r\n\r\n"
        )
        total = 0
        for size in range(1, 21):
            client.send(b"%X\r\n%b\r\n" % (size, b"u" * size))
            total += size
            while upstream.taken < total:
                gevent.sleep(0)
            assert upstream.taken == total
        client.send(b"0\r\n\r\n")
        assert client.read_response().status == 200
    proxy.events(1)


# Nagle's algorithm. What the worker has set on its sockets is asked of the kernel itself.


def _borrowed_sockets(pid: int) -> Iterator[socket.socket]:
    """Copies of a process's TCP sockets (pidfd_getfd, Linux 5.6)."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = libc.syscall(434, pid, 0)  # pidfd_open
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if not os.readlink(entry).startswith("socket:"):
                    continue
            except FileNotFoundError:
                continue  # closed meanwhile
            copy = libc.syscall(438, pidfd, int(entry.name), 0)  # pidfd_getfd
            if copy < 0:
                reason = os.strerror(ctypes.get_errno())
                pytest.skip(f"may not look into the worker: {reason}; allow ptrace (Yama)")
            with socket.socket(fileno=copy) as found:
                if found.family == socket.AF_INET:
                    yield found
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _no_delay(server: ProxyServer, belongs: Callable[[socket.socket], bool]) -> list[int]:
    found = []
    for pid in server.worker_pids():
        for sock in _borrowed_sockets(pid):
            try:
                if belongs(sock):
                    found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            except OSError:
                continue  # not connected
    return found


def test_both_sides_sockets_do_not_wait_to_send(
    proxy: ProxyServer, upstream: Upstream, access: Access
) -> None:
    with _open(proxy.port, "gated-sse", access.token) as client:
        client.read_head()
        mine = client.sock.getsockname()
        to_client = _no_delay(proxy, lambda sock: sock.getpeername() == mine)
        to_upstream = _no_delay(proxy, lambda sock: sock.getpeername()[1] == upstream.port)
        for _ in gated_pieces():
            upstream.gate.release()
        while client.read_chunk():
            pass
    proxy.events(1)
    assert len(to_client) == 1
    assert len(to_upstream) >= 1
    assert all(to_client)
    assert all(to_upstream)


# Foreign eyes.


def _chunks(client: RawClient) -> list[bytes]:
    client.read_head()
    chunks = []
    while chunk := client.read_chunk():
        chunks.append(chunk)
    return chunks


def _as_openai_reads(chunks: list[bytes]) -> list[tuple[str, str]]:
    return [(e.event or "message", e.data) for e in SSEDecoder().iter_bytes(iter(chunks))]


class _Source(list[bytes]):
    def close(self) -> None:
        pass


def _as_sseclient_reads(chunks: list[bytes]) -> list[tuple[str, str]]:
    return [(e.event, e.data) for e in sseclient.SSEClient(_Source(chunks)).events()]


@pytest.mark.parametrize(
    "name",
    ["sse", "sse-crlf", "sse-comments", "sse-many-lines", "sse-error-frame", "sse-no-done"],
)
def test_two_foreign_parsers_agree(
    proxy: ProxyServer, upstream: Upstream, access: Access, name: str
) -> None:
    with _open(upstream.port, name, UPSTREAM_KEY) as client:
        direct = _chunks(client)
    with _open(proxy.port, name, access.token) as client:
        relayed = _chunks(client)
    proxy.events(1)
    assert b"".join(relayed) == b"".join(direct)
    wanted = _as_openai_reads(direct)
    assert wanted
    assert _as_openai_reads(relayed) == wanted
    assert _as_sseclient_reads(relayed) == _as_sseclient_reads(direct) == wanted


# Slow, but alive.


def test_a_byte_now_and_then_completes(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    """A byte a minute, scaled: each silence is far below both timeouts, the whole far above."""
    server, access = own_proxy.started(
        WEB_CONCURRENCY="1", UPSTREAM_READ_TIMEOUT="1", CLIENT_TIMEOUT="1"
    )
    count, pause = 16, 0.2

    def upload() -> int:
        with RawClient(server.port) as client:
            client.send(
                b"POST /v1/behave/digest HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n"
                b"Authorization: Bearer %b\r\n\r\n" % (count, access.token.encode())
            )
            for _ in range(count):
                gevent.sleep(pause)
                client.send(b"u")
            return client.read_response().status

    uploading = gevent.spawn(upload)
    with _open(server.port, f"drip/{count}/{pause * 1000:.0f}", access.token) as client:
        answer = client.read_response()
    assert (answer.body, answer.clean) == (b":" * count, True)
    assert uploading.get(timeout=20) == 200
    assert upstream.taken == count
    assert [event["outcome"] for event in server.events(2)] == ["completed"] * 2
