"""The database is away: what one worker knows, all of its node know, also after a restart."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from tests.support.proxy_access import ProxyFactory
from tests.support.raw_requests import ask, error_of
from tests.support.server import UPSTREAM_KEY, ProxyServer
from tests.support.services import MariaDB, mysql_server
from tests.support.wait import wait_until

KNOWN = "down, known tokens only"


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    with mysql_server() as server:
        yield server


def ready(server: ProxyServer) -> tuple[int, str]:
    answer = requests.get(f"{server.url}/ready", timeout=30)
    return answer.status_code, answer.json()["database"]


def statuses(server: ProxyServer, token: str, count: int = 40) -> set[int]:
    """Of requests over a connection each, so that each worker gets some."""
    return {ask(server, token).status for _ in range(count)}


def test_all_workers_know_it_also_after_a_restart(
    own_proxy: ProxyFactory, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.url(own_mariadb.create_database())
    server, access = own_proxy.started(DATABASE_URL=url, WEB_CONCURRENCY="4", AUTH_CACHE_TTL="1")
    never_used = server.mint(access.project_id)["token"]
    revoked = server.mint(access.project_id)
    assert ask(server, access.token).status == 200, "by one worker of four"
    assert ask(server, revoked["token"]).status == 200
    known = server.folder / "data" / "known-tokens.db"
    wait_until(lambda: known.exists() and rows(known) == 2)
    server.manage("DELETE", f"/tokens/{revoked['id']}")
    wait_until(lambda: statuses(server, revoked["token"], 20) == {401})

    own_mariadb.halt()
    assert statuses(server, access.token) == {200}
    assert error_of(ask(server, never_used)) == "store_unavailable"
    assert statuses(server, revoked["token"]) <= {401, 503}
    wait_until(lambda: ready(server) == (200, KNOWN))

    assert server.stop() == 0
    content = b"".join(path.read_bytes() for path in known.parent.glob("known-tokens.db*"))
    assert UPSTREAM_KEY.encode() not in content
    assert access.token.encode() not in content
    server.spawn()
    server.wait_ready()
    wait_until(lambda: ready(server) == (200, KNOWN))
    assert statuses(server, access.token) == {200}
    assert error_of(ask(server, never_used)) == "store_unavailable"
    assert statuses(server, revoked["token"]) <= {401, 503}

    own_mariadb.run()
    wait_until(lambda: ready(server) == (200, "ok"))
    assert statuses(server, never_used, 1) == {200}
    assert ask(server, revoked["token"]).status == 401
    server.manage("DELETE", f"/tokens/{access.token_id}")
    wait_until(lambda: statuses(server, access.token, 10) == {401})


def test_what_was_revoked_while_the_node_was_down_is_not_known(
    own_proxy: ProxyFactory, own_mariadb: MariaDB
) -> None:
    url = own_mariadb.url(name := own_mariadb.create_database())
    server, access = own_proxy.started(DATABASE_URL=url, WEB_CONCURRENCY="1")
    assert ask(server, access.token).status == 200
    assert server.stop() == 0
    known = server.folder / "data" / "known-tokens.db"
    assert rows(known) == 1
    own_mariadb.admin(
        "UPDATE tokens SET is_active = 0, revoked_at = updated_at, updated_at = %s",
        (own_mariadb.admin("SELECT UNIX_TIMESTAMP(NOW(6)) * 1000000")[0][0],),
        name,
    )
    server.spawn()
    server.wait_ready()
    wait_until(lambda: rows(known) == 0)
    own_mariadb.halt()
    assert ask(server, access.token).status == 503


def test_the_grace_ends(own_proxy: ProxyFactory, own_mariadb: MariaDB) -> None:
    url = own_mariadb.url(own_mariadb.create_database())
    server, access = own_proxy.started(
        DATABASE_URL=url, WEB_CONCURRENCY="1", AUTH_STALE_GRACE="6", AUTH_CACHE_TTL="1"
    )
    assert ask(server, access.token).status == 200
    own_mariadb.halt()
    assert server.stop() == 0
    server.spawn()
    wait_until(lambda: alive(server))
    wait_until(lambda: ask(server, access.token).status == 503)
    wait_until(lambda: ready(server)[0] == 503)


def rows(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM known").fetchone()[0])
    except sqlite3.OperationalError:
        return -1


def alive(server: ProxyServer) -> bool:
    try:
        return requests.get(f"{server.url}/live", timeout=30).ok
    except requests.ConnectionError:
        return False
