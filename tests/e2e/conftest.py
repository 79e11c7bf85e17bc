"""One proxy with two workers, one upstream, one project and token for the whole folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from tests.support.fake_upstream import Received, Upstream
from tests.support.raw_client import RawAnswer, RawClient
from tests.support.realtime import Realtime
from tests.support.server import UPSTREAM_KEY, ProxyServer


@pytest.fixture(scope="session")
def session_upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture
def upstream(session_upstream: Upstream) -> Upstream:
    session_upstream.reset()
    return session_upstream


@pytest.fixture(scope="session")
def proxy(
    tmp_path_factory: pytest.TempPathFactory, session_upstream: Upstream
) -> Iterator[ProxyServer]:
    server = ProxyServer(tmp_path_factory.mktemp("proxy"), session_upstream.url).start()
    yield server
    assert server.stop() == 0, server.log_text()
    log = server.log_text()
    assert "Traceback" not in log, log
    assert UPSTREAM_KEY not in log


@dataclass
class Access:
    """A project and a token of it."""

    project_id: str
    token_id: str
    token: str

    @property
    def bearer(self) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.token}")


@pytest.fixture(scope="session")
def access(proxy: ProxyServer) -> Access:
    project = proxy.create_project("session")
    token = proxy.mint(project["id"])
    return Access(project["id"], token["id"], token["token"])


@pytest.fixture
def client(proxy: ProxyServer, access: Access) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=access.token, max_retries=0) as made:
        yield made


@pytest.fixture
def realtime() -> Iterator[Realtime]:
    server = Realtime()
    yield server
    server.stop()


@dataclass
class Call:
    """Sends the same request through the proxy, or straight to the upstream."""

    proxy: ProxyServer
    upstream: Upstream
    access: Access

    def relayed(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> RawAnswer:
        return self._send(
            self.proxy.port, method, target, [self.access.bearer, *(headers or [])], body
        )

    def direct(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> RawAnswer:
        key = ("Authorization", f"Bearer {UPSTREAM_KEY}")
        return self._send(self.upstream.port, method, target, [key, *(headers or [])], body)

    def last(self) -> Received:
        return self.upstream.received[-1]

    def _send(
        self, port: int, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> RawAnswer:
        with RawClient(port) as client:
            client.request(method, target, headers, body)
            return client.read_answer(method)


@pytest.fixture
def call(proxy: ProxyServer, upstream: Upstream, access: Access) -> Call:
    return Call(proxy, upstream, access)


@pytest.fixture
def own_proxy(tmp_path: Path, upstream: Upstream) -> Iterator["Maker"]:
    """Makes proxies with settings of their own; ends those that a test left running."""
    maker = Maker(tmp_path, upstream)
    yield maker
    for server in maker.made:
        server.stop()


class Maker:
    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self._folder = folder
        self._upstream = upstream
        self.made: list[ProxyServer] = []

    def __call__(self, **settings: str) -> ProxyServer:
        folder = self._folder / f"proxy-{len(self.made)}"
        server = ProxyServer(folder, self._upstream.url, **settings)
        self.made.append(server)
        return server

    def started(self, **settings: str) -> tuple[ProxyServer, Access]:
        """Serving, with a project and a token."""
        server = self(**settings).start()
        project = server.create_project()
        token = server.mint(project["id"])
        return server, Access(project["id"], token["id"], token["token"])
