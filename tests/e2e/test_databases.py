"""The real server on each database: its driver must have been imported after gevent's patches."""

from tests.e2e.conftest import Maker
from tests.support.raw_client import RawClient


def test_serves_a_token_of_it(own_proxy: Maker, database_url: str) -> None:
    server, access = own_proxy.started(DATABASE_URL=database_url, WEB_CONCURRENCY="2")
    with RawClient(server.port) as client:
        client.request("GET", "/v1/models", [access.bearer], b"")
        assert client.read_answer("GET").status == 200
