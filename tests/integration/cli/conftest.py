"""The fixtures of the command line, and a real proxy for the commands that need one."""

from collections.abc import Iterator

import pytest

from tests.support.cli_fixtures import api, empty_directory, run
from tests.support.fake_upstream import Upstream
from tests.support.server import ProxyServer

__all__ = ["api", "empty_directory", "run"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[ProxyServer]:
    server = ProxyServer(tmp_path_factory.mktemp("proxy"), upstream.url).start()
    yield server
    assert server.stop() == 0, server.log_text()


@pytest.fixture(scope="module")
def token(proxy: ProxyServer) -> str:
    minted: str = proxy.mint(proxy.create_project()["id"])["token"]
    return minted
