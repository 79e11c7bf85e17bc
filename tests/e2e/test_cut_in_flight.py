"""A total that is reached cuts what is under way, on all nodes, where the project wants it."""

import pytest

from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.raw_requests import chat, mint
from tests.support.server import ProxyServer
from tests.support.wait import wait_until


@pytest.fixture
def nodes(own_proxy: ProxyFactory, mysql_url: str) -> tuple[ProxyServer, ProxyServer]:
    settings = {"DATABASE_URL": mysql_url, "GRACEFUL_TIMEOUT": "5"}
    return own_proxy(**settings).start(), own_proxy(**settings).start()


@pytest.mark.parametrize("cuts", [True, False])
def test_streams_under_way(nodes: tuple[ProxyServer, ProxyServer], cuts: bool) -> None:
    first, second = nodes
    project_id = first.create_project()["id"]
    first.manage("PATCH", f"/projects/{project_id}", {"cut_in_flight": cuts})
    parent = first.mint(project_id, can_mint=True, max_tokens_total=21)
    child = mint(second, parent["token"])
    streams = [RawClient(server.port, timeout=30) for server in nodes]
    for client in streams:
        bearer = ("Authorization", f"Bearer {child['token']}")
        client.request("GET", "/v1/behave/silent-midstream", [bearer])
        begun = b""
        while not begun.endswith(b"\n\n\r\n"):
            begun += client.sock.recv(4096)
    assert chat(first, parent["token"]) == 200  # 21 LLM tokens
    wait_until(lambda: {chat(second, child["token"]) for _ in range(8)} == {429})
    for client in streams:
        data = b""
        if cuts:
            while part := client.sock.recv(65536):
                data += part
            assert b"event: error" in data
            assert b"quota_exceeded" in data
            assert not data.endswith(b"0\r\n\r\n")
        else:
            client.sock.settimeout(1.5)
            with pytest.raises(TimeoutError):
                data = client.sock.recv(65536)
        client.sock.close()
