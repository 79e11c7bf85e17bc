"""A wire server and an adapter per test; no test may leave a socket behind."""

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import gevent.socket
import pytest
import requests
from gevent import Greenlet

from proxy.upstream.adapter import UpstreamAdapter
from tests.support.certificates import Authority
from tests.support.open_handles import SPAWNED
from tests.support.wire_requests import Ask, Serve, prepared
from tests.support.wire_server import Handler, WireServer, answering


@pytest.fixture(autouse=True)
def _spawned_is_counted() -> Iterator[None]:
    Greenlet.add_spawn_callback(SPAWNED.add)
    yield
    Greenlet.remove_spawn_callback(SPAWNED.add)
    SPAWNED.clear()


@pytest.fixture(autouse=True)
def _no_socket_left(no_socket_left: None) -> None:
    """For every test of the folder."""


@pytest.fixture
def serve(_no_socket_left: None) -> Iterator[Serve]:
    """``serve(handler)``, ``serve(response, response, …)``; ``tls=`` a server context."""
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
