"""Large bodies: memory does not grow with them, and whoever reads slowly slows the sender.

``BIG_DOWNLOAD_BYTES`` scales the largest one, which takes a few seconds at its full size.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from tests.support.fake_upstream import Upstream
from tests.support.odd_responses import EVERY_BYTE
from tests.support.proxy_access import Access, Call
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

MIB = 1024 * 1024
DOWNLOAD = int(os.environ.get("BIG_DOWNLOAD_BYTES", 1024 * MIB))
UPLOAD = 300 * MIB
ALLOWED_GROWTH = 20 * MIB
#: What may be under way at most: the buffers of four sockets, which Linux lets grow to some
#: megabytes each, and one piece in our hands.
UNDER_WAY = 64 * MIB


class Memory:
    """Of one process: ``grown`` is its peak over what it held when the measuring began."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew
        self._before = self._field("VmRSS")

    @property
    def grown(self) -> int:
        return self._field("VmHWM") - self._before

    def _field(self, name: str) -> int:
        for line in (self._folder / "status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name}")


@pytest.fixture(scope="module")
def one_worker(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[tuple[ProxyServer, Access]]:
    folder = tmp_path_factory.mktemp("one-worker")
    server = ProxyServer(folder, session_upstream.url, WEB_CONCURRENCY="1").start()
    project = server.create_project()
    token = server.mint(project["id"])
    yield server, Access(project["id"], token["id"], token["token"])
    assert server.stop() == 0
    assert "Traceback" not in server.log_text()


@pytest.fixture
def call(one_worker: tuple[ProxyServer, Access], upstream: Upstream) -> Call:
    """Warmed up: what is loaded or made at the first request is not counted."""
    made = Call(one_worker[0], upstream, one_worker[1])
    for body in (b"", b"x" * 300_000):
        assert made.relayed("POST", "/v1/behave/digest", body=body).status == 200
    assert made.relayed("GET", "/v1/behave/pour/300000/chunked").status == 200
    made.proxy.events(3)
    upstream.reset()
    return made


@pytest.fixture
def memory(call: Call) -> Memory:
    (pid,) = call.proxy.worker_pids()
    return Memory(pid)


def _multipart(size: int) -> Iterator[bytes]:
    """So many bytes of a form with one file, generated."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b"\r\n--b--\r\n"
    yield head
    block = EVERY_BYTE * 1024
    left = size - len(head) - len(tail)
    while left:
        piece = block[: min(left, len(block))]
        left -= len(piece)
        yield piece
    yield tail


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_upload_takes_no_memory(call: Call, memory: Memory, chunked: bool) -> None:
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % UPLOAD
    checksum = 0
    with RawClient(call.proxy.port) as client:
        client.send(
            b"POST /v1/behave/digest HTTP/1.1\r\nHost: t\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n"
            + framing
            + b"\r\nAuthorization: Bearer "
            + call.access.token.encode()
            + b"\r\n\r\n"
        )
        for piece in _multipart(UPLOAD):
            checksum = zlib.crc32(piece, checksum)
            client.send(b"%X\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            client.send(b"0\r\n\r\n")
        answer = json.loads(client.read_response().body)
    assert (answer["bytes"], answer["crc32"]) == (UPLOAD, checksum)
    assert ["Content-Type", "multipart/form-data; boundary=b"] in answer["headers"]
    assert memory.grown < ALLOWED_GROWTH
    assert call.proxy.events(1)[0]["bytes_in"] == UPLOAD


@pytest.mark.parametrize(("framing", "size"), [("length", DOWNLOAD), ("chunked", DOWNLOAD // 8)])
def test_a_large_download_takes_no_memory(
    call: Call, memory: Memory, framing: str, size: int
) -> None:
    with RawClient(call.proxy.port) as client:
        _ask_for(client, call, size, framing)
        client.read_head()
        came = len(client.take()) + sum(_sizes(client))
    assert came == size if framing == "length" else came > size
    (event,) = call.proxy.events(1)
    assert (event["outcome"], event["bytes_out"]) == ("completed", size)
    assert memory.grown < ALLOWED_GROWTH


@pytest.mark.parametrize("kind", ["json", "event", "bomb"])
def test_a_meter_keeps_little_of_what_it_reads(call: Call, memory: Memory, kind: str) -> None:
    """One JSON text, one SSE event, one small body that would be a large one."""
    with RawClient(call.proxy.port) as client:
        headers = [call.access.bearer, ("Connection", "close")]
        client.request("GET", f"/v1/behave/heavy/{kind}", headers)
        client.read_head()
        came = len(client.take()) + sum(_sizes(client))
    (event,) = call.proxy.events(1)
    assert (event["outcome"], event["usage_source"]) == ("completed", "none")
    assert event["bytes_out"] == call.upstream.sent < came
    assert memory.grown < ALLOWED_GROWTH


def _ask_for(client: RawClient, call: Call, size: int, framing: str) -> None:
    headers = [call.access.bearer, ("Connection", "close")]
    client.request("GET", f"/v1/behave/pour/{size}/{framing}", headers)


def _sizes(client: RawClient) -> Iterator[int]:
    """Of all reads until the connection's end; nothing of them is kept."""
    target = bytearray(MIB)
    while size := client.sock.recv_into(target):
        yield size


# Back-pressure.


def _settled(read: Callable[[], int]) -> int:
    """The value of a counter once it has stopped growing: the same in fifty looks in a row."""
    looks: list[int] = []

    def stands_still() -> bool:
        looks.append(read())
        return len(looks) >= 50 and looks[-1] > 0 and len(set(looks[-50:])) == 1

    wait_until(stands_still)
    return looks[-1]


def test_a_client_that_stops_reading_stops_the_upstream(call: Call, memory: Memory) -> None:
    size = 4 * UNDER_WAY
    with RawClient(call.proxy.port) as client:
        _ask_for(client, call, size, "length")
        stopped_at = _settled(lambda: call.upstream.sent)
        assert stopped_at < UNDER_WAY
        # It goes on when the client does, and stops again.
        read = 0
        for count in _sizes(client):
            read += count
            if read > UNDER_WAY:
                break
        again_at = _settled(lambda: call.upstream.sent)
        assert stopped_at < again_at < read + UNDER_WAY
        read += sum(_sizes(client))
    assert read > size
    assert call.proxy.events(1)[0]["outcome"] == "completed"
    assert memory.grown < ALLOWED_GROWTH


def test_an_upstream_that_stops_reading_stops_the_client(call: Call, memory: Memory) -> None:
    size = 2 * UNDER_WAY
    sent = 0

    def upload(client: RawClient) -> None:
        nonlocal sent
        for piece in _multipart(size):
            client.send(piece)
            sent += len(piece)

    with RawClient(call.proxy.port) as client:
        client.send(
            b"POST /v1/behave/deaf HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n"
            b"Authorization: Bearer %b\r\n\r\n" % (size, call.access.token.encode())
        )
        sending = gevent.spawn(upload, client)
        assert call.upstream.asked.wait(20)
        assert _settled(lambda: sent) < UNDER_WAY
        assert not sending.dead
        call.upstream.gate.release()
        sending.get(timeout=20)
        assert json.loads(client.read_response().body)["bytes"] == size
    assert call.proxy.events(1)[0]["outcome"] == "completed"
    assert memory.grown < ALLOWED_GROWTH
