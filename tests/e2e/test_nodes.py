"""Two nodes of two workers on one MySQL: what is changed on one is felt on all."""

from collections.abc import Iterator

import pytest
import requests

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

#: So long that only the question for changes can bring the news.
SETTINGS = {"AUTH_CACHE_TTL": "3600", "WEB_CONCURRENCY": "2"}


class Nodes:
    """Connections to all four workers, each known by the process that serves it."""

    def __init__(self, servers: list[ProxyServer], access: Access) -> None:
        self.servers = servers
        self.access = access
        self._clients = [self._one_per_worker(server) for server in servers]

    def _one_per_worker(self, server: ProxyServer) -> list[RawClient]:
        """Open connections until both workers have some: the kernel deals them out."""
        clients = [RawClient(server.port) for _ in range(24)]
        for client in clients:
            client.request("GET", "/v1/models", [self.access.bearer])
            assert client.read_response().status == 200
        return clients

    def statuses(self, token: str | None = None) -> set[int]:
        """Of one request on every connection."""
        found = set()
        for client in [client for clients in self._clients for client in clients]:
            bearer = f"Bearer {token or self.access.token}"
            client.request("GET", "/v1/models", [("Authorization", bearer)])
            found.add(client.read_response().status)
        return found

    def close(self) -> None:
        for client in [client for clients in self._clients for client in clients]:
            client.sock.close()


@pytest.fixture
def nodes(own_proxy: ProxyFactory, mysql_url: str) -> Iterator[Nodes]:
    first, access = own_proxy.started(DATABASE_URL=mysql_url, **SETTINGS)
    second = own_proxy(DATABASE_URL=mysql_url, **SETTINGS).start()
    made = Nodes([first, second], access)
    yield made
    made.close()


def test_revocation_and_limits_reach_every_worker(nodes: Nodes) -> None:
    first, second = nodes.servers
    assert nodes.statuses() == {200}
    first.manage("DELETE", f"/tokens/{nodes.access.token_id}")
    wait_until(lambda: nodes.statuses() == {401})
    second.manage("PATCH", f"/tokens/{nodes.access.token_id}", {"is_active": True})
    wait_until(lambda: nodes.statuses() == {200})
    second.manage("PATCH", f"/projects/{nodes.access.project_id}", {"is_active": False})
    wait_until(lambda: nodes.statuses() == {403})
    first.manage("PATCH", f"/projects/{nodes.access.project_id}", {"is_active": True})
    wait_until(lambda: nodes.statuses() == {200})
    first.manage("PATCH", f"/tokens/{nodes.access.token_id}", {"max_requests": 1})
    wait_until(lambda: nodes.statuses() == {429})
    for server in nodes.servers:
        lag = requests.get(f"{server.url}/ready", timeout=10).json()["revocation_lag"]
        assert lag is not None


def test_a_new_upstream_key_reaches_every_worker(nodes: Nodes, upstream: Upstream) -> None:
    nodes.servers[0].manage(
        "PATCH", f"/projects/{nodes.access.project_id}", {"api_key": "sk-another-upstream-key-01"}
    )

    def keys() -> set[str]:
        upstream.received.clear()
        nodes.statuses()
        return {value for sent in upstream.received for value in sent.values("Authorization")}

    wait_until(lambda: keys() == {"Bearer sk-another-upstream-key-01"})


def test_a_token_that_was_tried_before_it_existed_works_soon(nodes: Nodes) -> None:
    stranger = "sk-" + "z" * 22
    assert nodes.statuses(stranger) == {401}
    minted = nodes.servers[1].mint(nodes.access.project_id)["token"]
    assert nodes.statuses(minted) == {200}
