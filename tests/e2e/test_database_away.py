"""The database stops, hangs and returns, under load: who has been let in stays in."""

from collections.abc import Iterator

import gevent
import pytest
import requests

from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.raw_requests import ask, error_of
from tests.support.server import ProxyServer
from tests.support.services import MariaDB, mysql_server
from tests.support.wait import wait_until


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    with mysql_server() as server:
        yield server


class Load:
    """Requests with a warm token, one after the other, until told to stop."""

    def __init__(self, server: ProxyServer, token: str) -> None:
        self.statuses: list[int] = []
        self._running = True
        self._greenlet = gevent.spawn(self._run, server, token)

    def _run(self, server: ProxyServer, token: str) -> None:
        while self._running:
            self.statuses.append(ask(server, token).status)
            gevent.sleep(0.005)

    def wait_for_more(self, count: int) -> None:
        goal = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= goal, 60)

    def stop(self) -> None:
        self._running = False
        self._greenlet.get(timeout=60)


@pytest.mark.parametrize("how", ["stopped", "stuck"])
def test_warm_tokens_go_on_and_the_rest_is_503(
    own_proxy: ProxyFactory, own_mariadb: MariaDB, how: str
) -> None:
    url = own_mariadb.url(own_mariadb.create_database())
    server, access = own_proxy.started(
        DATABASE_URL=url, WEB_CONCURRENCY="1", AUTH_CACHE_TTL="0.2", AUTH_STALE_GRACE="600"
    )
    never_used = server.mint(access.project_id)["token"]
    limited = server.mint(access.project_id, max_requests=100)["token"]
    assert ask(server, access.token).status == 200
    assert ask(server, limited).status == 200
    load = Load(server, access.token)
    leased = Load(server, server.mint(access.project_id, max_requests=100_000)["token"])
    load.wait_for_more(20)
    leased.wait_for_more(20)

    own_mariadb.halt() if how == "stopped" else own_mariadb.pause()
    load.wait_for_more(100)
    for token in (never_used, limited):
        answer = ask(server, token)
        assert (answer.status, error_of(answer)) == (503, "store_unavailable")
        assert answer.values("Retry-After")
    unknown = ask(server, "sk-" + "u" * 22)
    assert unknown.status == 503, "not to be known is not to be refused"
    managed = server.manage("GET", "/projects")
    assert (managed.status_code, managed.json()["error"]["code"]) == (503, "store_unavailable")
    with RawClient(server.port) as client:
        client.request("GET", "/ready")
        answer = client.read_response()
        assert answer.status == 200, "its cached tokens still work"
    load.wait_for_more(50)

    own_mariadb.run() if how == "stopped" else own_mariadb.resume()
    wait_until(lambda: ask(server, never_used).status == 200, 60)
    wait_until(lambda: ask(server, limited).status == 200, 60)
    assert ask(server, "sk-" + "u" * 22).status == 401
    load.wait_for_more(20)
    load.stop()
    leased.stop()
    assert set(load.statuses) == {200}, "no request with a warm token failed"
    assert set(leased.statuses) == {200, 503}, "its lease ran out, and nothing else"
    assert leased.statuses[0] == leased.statuses[-1] == 200
    server.manage("DELETE", f"/tokens/{access.token_id}")
    wait_until(lambda: ask(server, access.token).status == 401)
    assert server.stop() == 0
    assert "request failed" not in server.log_text()


def test_uses_are_counted_after_the_database_has_returned(
    own_proxy: ProxyFactory, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.url(own_mariadb.create_database())
    server, access = own_proxy.started(DATABASE_URL=url, WEB_CONCURRENCY="1")
    assert ask(server, access.token).status == 200
    own_mariadb.halt()
    for _ in range(9):
        assert ask(server, access.token).status == 200
    own_mariadb.run()
    wait_until(
        lambda: server.manage("GET", f"/tokens/{access.token_id}").json()["request_count"] == 10,
        60,
    )


def test_ready_says_when_writes_fail(own_proxy: ProxyFactory, own_mariadb: MariaDB) -> None:
    name = own_mariadb.create_database()
    own_mariadb.admin("CREATE USER proxy@'127.0.0.1' IDENTIFIED BY 'pw'")
    own_mariadb.admin(f"GRANT ALL ON {name}.* TO proxy@'127.0.0.1'")
    url = own_mariadb.url(name).replace("root@", "proxy:pw@")
    server, access = own_proxy.started(DATABASE_URL=url, WEB_CONCURRENCY="1")

    def said() -> tuple[int, str]:
        answer = requests.get(f"{server.url}/ready", timeout=30)
        return answer.status_code, answer.json()["database"]

    wait_until(lambda: said() == (200, "ok"))
    own_mariadb.admin("SET GLOBAL read_only = ON")
    wait_until(lambda: said() == (200, "writes fail: the server is read-only"))
    refused = server.manage("POST", "/projects", {"name": "n", "api_key": "sk-proj-0123456789abc"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert ask(server, access.token).status == 200
    own_mariadb.admin("SET GLOBAL read_only = OFF")
    wait_until(lambda: said() == (200, "ok"))
    made = server.manage("POST", "/projects", {"name": "n", "api_key": "sk-proj-0123456789abc"})
    assert made.status_code == 201
