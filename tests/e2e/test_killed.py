"""SIGKILL of workers under load, SIGTERM under load, a full disk: what becomes of the events."""

import contextlib
import json
import os
import random
import re
import resource
import signal
import sqlite3
from pathlib import Path
from typing import Any

import gevent
import gevent.pool
import requests

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import Access, ProxyFactory
from tests.support.raw_client import RawClient
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

#: How often a worker is killed, and the streams that run meanwhile.
KILLS = 200
STREAMS = 50
WORKERS = 4


class Clients:
    """Ask for streams all the time, each under a request id of its own."""

    def __init__(self, port: int, access: Access, count: int) -> None:
        self._port = port
        self._access = access
        #: Request ids: of answers that came whole; of all that were sent.
        self.complete: set[str] = set()
        self.asked: set[str] = set()
        self.stopping = False
        self._group = gevent.pool.Group()
        for number in range(count):
            self._group.spawn(self._ask_on, number)

    def stop(self) -> None:
        self.stopping = True
        self._group.join(timeout=30)

    def _ask_on(self, number: int) -> None:
        turn = 0
        while not self.stopping:
            turn += 1
            name = f"r-{number}-{turn}"
            self.asked.add(name)
            try:
                with RawClient(self._port, timeout=10) as client:
                    self._one(client, name)
            except (OSError, EOFError, ValueError):
                gevent.sleep(0.01)

    def _one(self, client: RawClient, name: str) -> None:
        body = json.dumps({"model": "gpt-4", "stream": True, "messages": []}).encode()
        headers = [self._access.bearer, ("X-Request-ID", name)]
        headers.append(("Content-Type", "application/json"))
        client.request("POST", "/v1/chat/completions", headers, body)
        answer = client.read_response("POST")
        if answer.status == 200 and answer.clean and b"[DONE]" in answer.body:
            self.complete.add(name)


def events_of(server: ProxyServer) -> list[dict[str, Any]]:
    text = server.event_log.read_text() if server.event_log.exists() else ""
    return [event for line in text.splitlines() if "event" not in (event := json.loads(line))]


def spool_of(server: ProxyServer) -> Path:
    return server.folder / "data" / "spool"


def left_in(spool: Path) -> list[str]:
    return [entry.name for entry in spool.iterdir() if entry.is_dir()]


def test_no_kill_loses_the_event_of_an_answer(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    server, access = own_proxy.started(EVENT_SHIPPER="on", WEB_CONCURRENCY=str(WORKERS))
    clients = Clients(server.port, access, STREAMS)
    chance = random.Random(7)
    killed: set[int] = set()
    wait_until(lambda: len(clients.complete) > STREAMS)
    while len(killed) < KILLS:
        living = [pid for pid in server.worker_pids() if pid not in killed]
        if living:
            pid = chance.choice(living)
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        gevent.sleep(chance.uniform(0.0, 0.3))
    clients.stop()
    assert server.stop() == 0, server.log_text()
    # The next start finds what the last ones left.
    server.spawn()
    server.wait_ready()
    wait_until(lambda: len(left_in(spool_of(server))) == WORKERS, 30)
    assert server.stop() == 0
    assert left_in(spool_of(server)) == []

    events = events_of(server)
    outcomes: dict[str, set[str]] = {}
    for event in events:
        outcomes.setdefault(event["request_id"], set()).add(event["outcome"])
    missing = clients.complete - outcomes.keys()
    print(
        f"{len(clients.asked)} asked, {len(clients.complete)} complete, {len(events)} events,"
        f" {len(outcomes)} requests, {sum('unknown' in o for o in outcomes.values())} unknown"
    )
    assert missing == set()
    # A request has one event, whatever copies of it there are, and no second opinion.
    assert all(len(found) == 1 for found in outcomes.values())
    unknown = [event for event in events if event["outcome"] == "unknown"]
    assert unknown, "no worker was killed while it worked"
    assert {event["status_code"] for event in unknown} == {None}
    assert {event["endpoint"] for event in unknown} == {"/v1/chat/completions"}
    assert {event["token_id"] for event in unknown} == {access.token_id}


def test_a_stop_under_load_loses_nothing_and_leaves_nothing(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(EVENT_SHIPPER="on", GRACEFUL_TIMEOUT="5")
    clients = Clients(server.port, access, STREAMS)
    wait_until(lambda: len(clients.complete) > 3 * STREAMS)
    server.terminate()
    clients.stopping = True
    assert server.wait() == 0
    clients.stop()
    events = events_of(server)
    assert clients.complete - {event["request_id"] for event in events} == set()
    assert len({event["event_id"] for event in events}) == len(events), "nothing twice"
    assert left_in(spool_of(server)) == []
    assert "could not be written" not in server.log_text()


def test_a_full_disk_stops_no_request(own_proxy: ProxyFactory) -> None:
    """Every file that grows past a size is refused by the kernel: the log's and the spool's."""
    server, access = own_proxy.started(EVENT_SHIPPER="on", WEB_CONCURRENCY="1")
    (pid,) = server.worker_pids()
    clients = Clients(server.port, access, 10)
    wait_until(lambda: len(clients.complete) > 50)
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    full = max(server.event_log.stat().st_size, 16_384)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (full, hard))
    wait_until(lambda: "cannot be written" in server.log_text())
    before = len(clients.complete)
    wait_until(lambda: len(clients.complete) > before + 200)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    before = len(clients.complete)
    wait_until(lambda: len(clients.complete) > before + 50)
    clients.stop()
    assert server.worker_pids() == [pid], "nobody died of it"
    wait_until(lambda: "events are not in it" in server.log_text())
    assert server.stop() == 0
    # What the spool lacks the log has: its lines were kept in memory until it took them.
    assert clients.complete - {event["request_id"] for event in events_of(server)} == set()
    log = server.log_text()
    assert len(re.findall(r"spool \S+: cannot be", log)) == 1
    assert re.findall(r"again, (\d+) events are not in it", log) == ["0"]
    assert left_in(spool_of(server)) == []
    # The ledger has them too: what the disk refused was kept until it took it.
    with contextlib.closing(sqlite3.connect(server.folder / "data" / "proxy.db")) as database:
        ((counted,),) = database.execute("SELECT SUM(requests) FROM usage_hourly").fetchall()
    assert counted == len({event["event_id"] for event in events_of(server)})


def test_a_full_disk_refuses_requests_where_that_is_asked_for(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(
        EVENT_SHIPPER="on", WEB_CONCURRENCY="1", ON_SPOOL_FULL="refuse"
    )
    (pid,) = server.worker_pids()
    headers = dict([access.bearer])

    def ask() -> int:
        return requests.get(f"{server.url}/v1/models", headers=headers, timeout=30).status_code

    assert ask() == 200
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    wait_until(lambda: ask() == 503)
    assert requests.get(f"{server.url}/health", timeout=30).status_code == 200
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    wait_until(lambda: ask() == 200)
    assert server.stop() == 0
    assert left_in(spool_of(server)) == []
    assert "are not in it" in server.log_text()


def test_a_node_killed_as_a_whole_tells_at_the_next_start(own_proxy: ProxyFactory) -> None:
    server, access = own_proxy.started(EVENT_SHIPPER="on", WEB_CONCURRENCY="2")
    clients = Clients(server.port, access, STREAMS)
    wait_until(lambda: len(clients.complete) > STREAMS)
    assert server.process is not None
    with RawClient(server.port, timeout=20) as held:
        held.request("GET", "/v1/behave/silent-midstream", [access.bearer])
        held.read_head()  # so one request at least is in flight
        for pid in [server.process.pid, *server.worker_pids()]:
            os.kill(pid, signal.SIGKILL)
        server.process.wait(20)
    clients.stop()
    server.spawn()
    server.wait_ready()
    wait_until(lambda: len(left_in(spool_of(server))) == 2)
    assert server.stop() == 0
    outcomes = {event["request_id"]: event["outcome"] for event in events_of(server)}
    assert clients.complete - outcomes.keys() == set()
    assert "unknown" in outcomes.values()
    assert left_in(spool_of(server)) == []


def test_what_a_killed_worker_had_not_counted_is_made_good(own_proxy: ProxyFactory) -> None:
    """Counts are written once a second; the ledger has the events of the last one too."""
    server, access = own_proxy.started(EVENT_SHIPPER="on", WEB_CONCURRENCY="2")
    body = json.dumps({"model": "gpt-4", "messages": []}).encode()
    headers = [access.bearer, ("Content-Type", "application/json")]
    asked = 0

    def ask() -> None:
        with RawClient(server.port, timeout=10) as client:
            client.request("POST", "/v1/chat/completions", headers, body)
            assert client.read_response("POST").status == 200

    def is_made_good() -> bool:
        totals = server.manage("GET", "/usage").json()["totals"]
        token = server.manage("GET", f"/tokens/{access.token_id}").json()
        in_ledger = totals["prompt_tokens"] + totals["completion_tokens"]
        counted = token["tokens_used"] == in_ledger and token["request_count"] == asked
        return bool(totals["requests"] == asked and counted)

    # Once at least they are killed before they have written.
    for _ in range(10):
        for _ in range(20):
            ask()
        asked += 20
        server.events(20)  # else the last of them may be one whose outcome nobody knows
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_until(is_made_good, 60)
        if "of a killed worker are now counted" in server.log_text():
            break
    assert "of a killed worker are now counted" in server.log_text()
