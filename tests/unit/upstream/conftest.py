"""A wire server and an adapter per test; no test may leave a socket behind."""

import socket
import ssl
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
import requests
from gevent import Greenlet

from proxy.upstream.adapter import UpstreamAdapter
from proxy.upstream.http1_codec import HeaderPairs
from tests.support.certificates import Authority
from tests.support.waiting import wait_until
from tests.support.wire_server import Handler, WireServer, answering

Serve = Callable[..., WireServer]
Ask = Callable[..., requests.Response]


def sockets() -> int:
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return found


_spawned: weakref.WeakSet[Greenlet] = weakref.WeakSet()


def greenlets() -> int:
    """Spawned by the test and not ended; servers and their connections are not counted."""
    return sum(not one.dead and "_serve" not in repr(one) for one in list(_spawned))


@pytest.fixture(autouse=True)
def _spawned_is_counted() -> Iterator[None]:
    Greenlet.add_spawn_callback(_spawned.add)
    yield
    Greenlet.remove_spawn_callback(_spawned.add)
    _spawned.clear()


@pytest.fixture(autouse=True)
def _no_socket_left() -> Iterator[None]:
    before = sockets()
    yield
    wait_until(lambda: sockets() <= before)


@pytest.fixture
def serve(_no_socket_left: None) -> Iterator[Serve]:
    """``serve(handler)``, ``serve(answer, answer, …)``; ``tls=`` a server context."""
    servers: list[WireServer] = []

    def start(*what: bytes | Handler, tls: ssl.SSLContext | None = None) -> WireServer:
        itself: list[WireServer] = []
        handler: Any = what[0] if callable(what[0]) else answering(itself, *what)  # type: ignore[arg-type]
        server = WireServer(handler, tls)
        itself.append(server)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def adapter(_no_socket_left: None) -> Iterator[UpstreamAdapter]:
    made = UpstreamAdapter(pool_size=10, connect_timeout=5.0)
    yield made
    made.close()


def prepared(
    method: str, url: str, headers: list[tuple[str, str]] | None = None, body: Any = None
) -> requests.PreparedRequest:
    request = requests.PreparedRequest()
    request.method, request.url, request.body = method, url, body
    lines = HeaderPairs(headers or [("Host", "upstream.test")])
    if isinstance(body, bytes):
        lines.append(("Content-Length", str(len(body))))
    request.headers = lines  # type: ignore[assignment]
    return request


@pytest.fixture
def ask(adapter: UpstreamAdapter) -> Ask:
    """One round trip; a ``bytes`` body gets its length."""

    def send(
        server: WireServer,
        method: str = "GET",
        path: str = "/v1/x",
        *,
        headers: list[tuple[str, str]] | None = None,
        body: Any = None,
        silence: float = 20.0,
    ) -> requests.Response:
        request = prepared(method, server.origin + path, headers, body)
        return adapter.send(request, timeout=(5.0, silence))

    return send


def read_all(response: requests.Response) -> bytes:
    parts = []
    while part := response.raw.read1():
        parts.append(part)
    return b"".join(parts)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def trusted(certificates: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The same, trusted by every context that is made in the test."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    return certificates


@pytest.fixture
def full_listener(_no_socket_left: None) -> Iterator[str]:
    """An origin whose backlog is full: a SYN to it is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            waiting.append(gevent.socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for sock in waiting:
            sock.close()
