"""One worker of all nodes keeps house: real processes, real databases, one of them killed."""

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from proxy.store.database import Database
from proxy.store.usage import UsageLedger
from tests.support.proxy_access import ProxyFactory
from tests.support.server import ROOT, ProxyServer
from tests.support.stored_records import Store
from tests.support.wait import wait_until

PAST = datetime.now(UTC) - timedelta(days=3)


class Nodes:
    """Four processes on one database, and what each of them has done."""

    def __init__(self, url: str, folder: Path) -> None:
        self._file = folder / "turns.out"
        self._file.touch()
        command = [sys.executable, "-m", "tests.support.maintenance_process", url, str(self._file)]
        self.processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]

    def turns(self) -> list[tuple[str, int]]:
        lines = [line.split() for line in self._file.read_text().splitlines()]
        return [(what, int(pid)) for what, pid in lines]

    def holder(self) -> int | None:
        turns = self.turns()
        return turns[-1][1] if turns else None

    def kill(self, pid: int) -> None:
        (process,) = [process for process in self.processes if process.pid == pid]
        process.kill()
        process.wait()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.database.close()


def test_one_at_a_time_and_another_when_it_dies(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    project = store.project()
    for _ in range(9):
        store.token(project, expires_at=PAST)
    nodes = Nodes(database_url, tmp_path)
    try:
        wait_until(lambda: len(nodes.turns()) > 20)
        first = nodes.holder()
        assert first is not None
        nodes.kill(first)
        before = len(nodes.turns())
        store.token(project, expires_at=PAST)
        wait_until(lambda: len(nodes.turns()) > before + 6)
        turns = nodes.turns()
    finally:
        nodes.close()
    assert {pid for _, pid in turns[:before]} == {first}
    assert first not in {pid for _, pid in turns[before:]}
    # The one that was killed may have been in the middle of it.
    for part in (turns[: before - before % 2], turns[before:]):
        pairs = zip(part[::2], part[1::2], strict=False)
        assert all((b[0], e[0], b[1]) == ("begin", "end", e[1]) for b, e in pairs), turns
    assert store.tokens.list(active=True) == []


def rows_done(servers: list[ProxyServer]) -> dict[str, float]:
    """By task, over all nodes."""
    sums: dict[str, float] = {}
    for server in servers:
        page = requests.get(f"{server.url}/metrics", timeout=10).text
        for name, value in re.findall(r'housekeeping_rows_total\{task="(\w+)"\} (\S+)', page):
            sums[name] = sums.get(name, 0) + float(value)
    return sums


def test_two_nodes_of_two_workers_do_everything_once(
    own_proxy: ProxyFactory, mysql_url: str
) -> None:
    settings = {"DATABASE_URL": mysql_url, "USAGE_RETENTION_DAYS": "2"}
    servers = [own_proxy(**settings) for _ in range(2)]
    servers[0].migrate()
    store = Store(mysql_url)
    project = store.project()
    alive = store.token(project)
    for _ in range(30):
        store.token(project, expires_at=PAST)
    hour = PAST.replace(minute=0, second=0, microsecond=0)
    entries = [
        (hour + timedelta(days=days), project.id, f"t{n}", "m", 1, 0, 1, 1, *[0] * 7)
        for n in range(20)
        for days in (0, 2)
    ]
    assert UsageLedger(store.database).apply("w", None, (1, 1), entries)
    for server in servers:
        server.spawn()
    for server in servers:
        server.wait_ready()
    done = {"tokens": 30, "usage": 20, "counted_ids": 0, "key_health": 0, "cache_purges": 0}
    wait_until(lambda: rows_done(servers) == done, 40)
    listed = servers[1].manage("GET", "/tokens?active=true").json()
    assert [token["id"] for token in listed] == [alive.id]
    listed = servers[0].manage("GET", "/tokens?active=false").json()
    assert {(token["is_active"], token["revoked_at"]) for token in listed} == {(False, None)}
    assert store.cell("SELECT COUNT(*) FROM usage_hourly") == 20
    assert store.cell("SELECT COUNT(*) FROM leases") == 1
    for server in servers:
        assert server.stop() == 0
        assert "Traceback" not in server.log_text()
    told = "".join(server.log_text() for server in servers)
    assert len(re.findall('"message":"housekeeping: rows: ', told)) == 1
    # The holder has freed its lease.
    assert store.cell("SELECT held_until FROM leases") == 0
    store.database.close()


def test_an_expired_token_is_still_told_that_it_has_expired(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(AUTH_CACHE_TTL="0")
    database = Database.from_url(f"sqlite:///{server.environ['DATA_DIR']}/proxy.db")

    def let_expire() -> None:
        sql = "UPDATE tokens SET expires_at = ?, is_active = 0 WHERE id = ?"
        values = (int(PAST.timestamp() * 1e6), access.token_id)
        database.run(lambda session: session.execute(sql, values))

    let_expire()
    headers = {"Authorization": f"Bearer {access.token}"}

    def code() -> str | None:
        answer = requests.get(f"{server.url}/v1/models", headers=headers, timeout=10)
        return str(answer.json()["error"]["code"]) if answer.status_code != 200 else None

    assert code() == "token_expired"
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    changed = server.manage("PATCH", f"/tokens/{access.token_id}", {"expires_at": later}).json()
    assert changed["is_active"]
    wait_until(lambda: code() is None)
    assert server.manage("DELETE", f"/tokens/{access.token_id}").status_code == 204
    let_expire()
    assert code() == "token_inactive"
    database.close()
