"""The real server on each database: its driver must have been imported after gevent's patches."""

from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient


def test_serves_a_token_of_it(own_proxy: ProxyFactory, database_url: str) -> None:
    server, access = own_proxy.started(DATABASE_URL=database_url, WEB_CONCURRENCY="2")
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", [access.bearer], b"")
        assert client.read_response("GET").status == 200
