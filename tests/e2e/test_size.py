"""Large bodies: memory does not grow with them, and whoever reads slowly slows the sender.

``BIG_DOWNLOAD_BYTES`` scales the largest one, which takes a few seconds at its full size.
"""

import json
import os
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from tests.e2e.conftest import Access, Call
from tests.e2e.oddities import EVERY_BYTE
from tests.rawclient import RawClient
from tests.server import ProxyServer
from tests.upstream import Upstream
from tests.waiting import wait_until

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
        answer = json.loads(client.read_answer().body)
    assert (answer["bytes"], answer["crc32"]) == (UPLOAD, checksum)
    assert ["Content-Type", "multipart/form-data; boundary=b"] in answer["headers"]
    assert memory.grown < ALLOWED_GROWTH
    assert call.proxy.events(1)[0]["bytes_in"] == UPLOAD


@pytest.mark.parametrize(("framing", "size"), [("length", DOWNLOAD), ("chunked", DOWNLOAD // 8)])
def test_a_large_download_takes_no_memory(
    call: Call, memory: Memory, framing: str, size: int
) -> None:
    with RawClient(call.proxy.port) as client:
        client.request("GET", f"/v1/behave/pour/{size}/{framing}", [call.access.bearer])
        client.read_head()
        assert _count(client) >= size
    (event,) = call.proxy.events(1)
    assert (event["outcome"], event["bytes_out"]) == ("completed", size)
    assert memory.grown < ALLOWED_GROWTH


def _count(client: RawClient) -> int:
    """Bytes until the answer's end, framing included; nothing of them is kept."""
    target = bytearray(MIB)
    count = len(client.take())
    client.sock.settimeout(20)
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        size = client.sock.recv_into(target)
        if not size:
            break
        count += size
        tail = tail[-5:] + bytes(target[max(0, size - 5) : size])
    return count


def _settled(read: "gevent.Greenlet | None", counter: "object") -> None:
    raise NotImplementedError
