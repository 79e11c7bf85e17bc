"""One proxy with two workers, one upstream, one project and token for the whole folder."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, Call, ProxyFactory
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


@pytest.fixture
def call(proxy: ProxyServer, upstream: Upstream, access: Access) -> Call:
    return Call(proxy, upstream, access)


@pytest.fixture
def own_proxy(tmp_path: Path, upstream: Upstream) -> Iterator[ProxyFactory]:
    """Makes proxies with settings of their own; ends those that a test left running."""
    maker = ProxyFactory(tmp_path, upstream)
    yield maker
    for server in maker.made:
        server.stop()
