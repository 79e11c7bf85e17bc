"""Two nodes of two workers: whose token is taken away is cut off in all of them, at once."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
from wsproto.events import AcceptConnection, CloseConnection

from tests.support.fake_upstream import Upstream
from tests.support.proxy_access import ProxyFactory
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.realtime import Client, Realtime, opening
from tests.support.server import ProxyServer
from tests.support.services import RedisServer
from tests.support.wait import wait_until

#: So long that only the question for changes, or an announcement, can bring the news.
SETTINGS = {"AUTH_CACHE_TTL": "3600", "WEB_CONCURRENCY": "2"}
#: With this nothing but an announcement can bring it within the time of a test.
DEAF = {**SETTINGS, "REVOCATION_INTERVAL": "600"}
STREAM = "/v1/behave/silent-midstream"
MOST = 400


def connections(pid: int, port: int) -> int:
    """Of one worker, to clients that it serves."""
    local = f":{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    served = {row[9] for row in rows if row[1].endswith(local) and row[3] == "01"}
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except OSError:
            continue
        found += match is not None and match[1] in served
    return found


class Streams:
    """Answers under way on every worker of every node, and when each of them ended."""

    def __init__(self, servers: list[ProxyServer], token: str, target: str = STREAM) -> None:
        self.token = token
        self.target = target
        self.clients = [client for server in servers for client in self._on_all_workers(server)]
        self.answers: list[RawResponse] = []
        self.ended_at: list[float] = []
        self._readers = [gevent.spawn(self._read, client) for client in self.clients]

    def _on_all_workers(self, server: ProxyServer) -> list[RawClient]:
        """The kernel deals them out."""
        clients: list[RawClient] = []
        while min(connections(pid, server.port) for pid in server.worker_pids()) < 2:
            assert len(clients) < MOST
            for _ in range(8):
                client = RawClient(server.port)
                clients.append(client)
                client.request("GET", self.target, [("Authorization", f"Bearer {self.token}")])
                client.wait_for(b"data: ")
        return clients

    def _read(self, client: RawClient) -> None:
        answer = client.read_response()
        self.ended_at.append(time.monotonic())
        self.answers.append(answer)

    def join(self) -> None:
        """Until all have ended."""
        gevent.joinall(self._readers, timeout=30, raise_error=True)
        assert len(self.answers) == len(self.clients)

    def close(self) -> None:
        gevent.killall(self._readers)
        for client in self.clients:
            client.sock.close()


class Nodes:
    def __init__(self, own_proxy: ProxyFactory, url: str, **settings: str) -> None:
        first, self.access = own_proxy.started(DATABASE_URL=url, **settings)
        self.servers = [first, own_proxy(DATABASE_URL=url, **settings).start()]
        self._streams: list[Streams] = []

    def stream(self, target: str = STREAM) -> Streams:
        made = Streams(self.servers, self.access.token, target)
        self._streams.append(made)
        return made

    def wait_until_listening(self, listening: float = 1) -> None:
        name = "proxy_revocation_listening"

        def all_do() -> bool:
            return all(figure(server, name) == listening for server in self.servers)

        wait_until(all_do)

    def close(self) -> None:
        for streams in self._streams:
            streams.close()


def figure(server: ProxyServer, series: str) -> float | None:
    page = requests.get(f"{server.url}/metrics", timeout=10).text
    found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
    return float(found[1]) if found else None


@pytest.fixture
def polling(own_proxy: ProxyFactory, mysql_url: str) -> Iterator[Nodes]:
    nodes = Nodes(own_proxy, mysql_url, **SETTINGS)
    yield nodes
    nodes.close()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def announcing(own_proxy: ProxyFactory, mysql_url: str, own_redis: RedisServer) -> Iterator[Nodes]:
    nodes = Nodes(own_proxy, mysql_url, REDIS_URL=own_redis.url, **DEAF)
    nodes.wait_until_listening()
    yield nodes
    nodes.close()


def assert_cut(answers: list[RawResponse], code: str) -> None:
    for answer in answers:
        assert answer.status == 200
        assert not answer.clean, "a cut answer must not look complete"
        assert answer.body.count(b"event: error\n") == 1
        assert f'"code":"{code}"'.encode() in answer.body.partition(b"event: error\n")[2]
        assert b"[DONE]" not in answer.body


def new_requests(nodes: Nodes, count: int = 12) -> list[RawResponse]:
    """On connections of their own, to each node."""
    answers = []
    for server in nodes.servers:
        for _ in range(count):
            with RawClient(server.port) as client:
                client.request("GET", "/v1/models", [nodes.access.bearer])
                answers.append(client.read_response())
    return answers


def statuses(nodes: Nodes) -> set[int]:
    return {answer.status for answer in new_requests(nodes)}


def refusals(nodes: Nodes) -> set[tuple[int, str]]:
    return {(answer.status, error_of(answer)) for answer in new_requests(nodes)}


def events_of(nodes: Nodes, streams: Streams) -> list[dict[str, Any]]:
    """Of the answers that were under way."""
    found: list[dict[str, Any]] = []

    def all_there() -> bool:
        for server in nodes.servers:
            found.extend(server.events_so_far())
        return len([e for e in found if e["endpoint"] == streams.target]) >= len(streams.clients)

    wait_until(all_there)
    return [event for event in found if event["endpoint"] == streams.target]


def cut_everywhere(nodes: Nodes, name: str) -> None:
    """Revoke on one node; what the streams on all workers of both see of it."""
    streams = nodes.stream()
    nodes.servers[0].manage("DELETE", f"/tokens/{nodes.access.token_id}")
    revoked_at = time.monotonic()
    streams.join()
    assert_cut(streams.answers, "token_inactive")
    late = sorted(ended - revoked_at for ended in streams.ended_at)
    print(
        f"{name}: {len(late)} streams, median {late[len(late) // 2]:.3f} s, last {late[-1]:.3f} s"
    )
    assert refusals(nodes) == {(401, "token_inactive")}
    events = events_of(nodes, streams)
    assert {(e["outcome"], e["error_code"]) for e in events} == {("aborted", "token_inactive")}
    cut = 'proxy_requests_cut_total{reason="token_inactive"}'

    def counted() -> bool:
        return sum(figure(server, cut) or 0 for server in nodes.servers) == len(late)

    wait_until(counted)


def test_a_revoked_token_is_cut_in_every_worker(polling: Nodes) -> None:
    cut_everywhere(polling, "poll")
    for server in polling.servers:
        assert figure(server, "proxy_revocation_lag_seconds") is not None
        assert figure(server, "proxy_revocation_listening") is None


def test_with_redis_it_does_not_wait_for_the_next_question(announcing: Nodes) -> None:
    cut_everywhere(announcing, "redis")
    lags = [figure(server, "proxy_revocation_lag_seconds") for server in announcing.servers]
    print(f"lags {lags}")
    assert all(lag is not None for lag in lags)


def test_a_deactivated_project_and_one_that_lets_them_finish(
    announcing: Nodes, upstream: Upstream
) -> None:
    path = f"/projects/{announcing.access.project_id}"
    first = announcing.servers[0]
    streams = announcing.stream()
    first.manage("PATCH", path, {"is_active": False})
    streams.join()
    assert_cut(streams.answers, "project_inactive")
    assert refusals(announcing) == {(403, "project_inactive")}
    first.manage("PATCH", path, {"is_active": True})
    wait_until(lambda: statuses(announcing) == {200})
    # Half an event is no place for last words: only broken.
    halves = announcing.stream("/v1/behave/half-event")
    first.manage("DELETE", f"/tokens/{announcing.access.token_id}")
    halves.join()
    assert all(not answer.clean for answer in halves.answers)
    assert all(b"error" not in answer.body for answer in halves.answers)


def test_what_may_finish_does(polling: Nodes, upstream: Upstream) -> None:
    path = f"/projects/{polling.access.project_id}"
    changed = polling.servers[0].manage("PATCH", path, {"on_revoke": "finish"})
    assert changed.status_code == 200
    body = b'{"model": "gated", "stream": true}'
    clients = [RawClient(server.port) for server in polling.servers for _ in range(6)]
    for client in clients:
        headers = [polling.access.bearer, ("Content-Type", "application/json")]
        client.request("POST", "/v1/chat/completions", headers, body)
    for _ in clients:
        upstream.gate.release()
    for client in clients:
        client.read_head()
    polling.servers[0].manage("DELETE", f"/tokens/{polling.access.token_id}")
    wait_until(lambda: statuses(polling) == {401})
    # Every worker has judged them by now, and will once more.
    gevent.sleep(1.5)
    for _ in range(20 * len(clients)):
        upstream.gate.release()
    for client in clients:
        rest, clean = client.read_body()
        assert clean
        assert rest.endswith(b"data: [DONE]\n\n")
        client.sock.close()


def test_one_that_expires_meanwhile(polling: Nodes) -> None:
    """Expiry needs no change; an earlier or a later one is a change like any other."""
    first = polling.servers[0]
    path = f"/tokens/{polling.access.token_id}"
    streams = polling.stream()
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
    assert first.manage("PATCH", path, {"expires_at": soon}).status_code == 200
    streams.join()
    assert_cut(streams.answers, "token_expired")
    assert refusals(polling) == {(401, "token_expired")}


def test_without_redis_for_a_while(
    own_proxy: ProxyFactory, mysql_url: str, own_redis: RedisServer
) -> None:
    """Announcements stop, questions go on; then announcements are heard again."""
    nodes = Nodes(own_proxy, mysql_url, REDIS_URL=own_redis.url, **SETTINGS)
    first = nodes.servers[0]
    path = f"/tokens/{nodes.access.token_id}"
    nodes.wait_until_listening()
    own_redis.halt()
    nodes.wait_until_listening(0)
    streams = nodes.stream()
    assert first.manage("DELETE", path).status_code == 204
    streams.join()
    assert_cut(streams.answers, "token_inactive")
    own_redis.run()
    nodes.wait_until_listening()
    heard = own_redis.client().pubsub()
    heard.subscribe("proxy:changes")
    first.manage("PATCH", path, {"is_active": True})
    wait_until(lambda: (heard.get_message(timeout=1) or {}).get("data") == nodes.access.token_id)
    heard.close()
    for server in nodes.servers:
        assert server.log_text().count("changes are not received through Redis") == 2
        assert server.log_text().count("changes are received through Redis again") == 2
    nodes.close()


def test_what_has_not_been_answered_yet_is_refused(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    server, access = own_proxy.started(WEB_CONCURRENCY="1")
    with RawClient(server.port) as client:
        client.request("GET", "/v1/behave/silent", [access.bearer])
        assert upstream.asked.wait(20)
        server.manage("DELETE", f"/tokens/{access.token_id}")
        answer = client.read_response()
    assert (answer.status, error_of(answer)) == (401, "token_inactive")
    assert answer.values("WWW-Authenticate")
    assert upstream.left.wait(20), "the upstream is told"
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "token_inactive")


def test_a_websocket_is_closed(own_proxy: ProxyFactory, realtime: Realtime) -> None:
    server, access = own_proxy.started(UPSTREAM_BASE_URL=realtime.url, WEB_CONCURRENCY="1")
    client = Client(server.port, opening(access.token))
    assert isinstance(client.next(), AcceptConnection)
    client.text()
    server.manage("DELETE", f"/tokens/{access.token_id}")
    last = client.next()
    assert isinstance(last, CloseConnection)
    assert (last.code, last.reason) == (1008, "token_inactive")
    assert client.sock.recv(100) == b""
    assert realtime.closed.wait(20)
    (event,) = server.events(1)
    assert (event["outcome"], event["error_code"]) == ("aborted", "token_inactive")


def test_nobody_reads_on_for_a_revoked_token(own_proxy: ProxyFactory, upstream: Upstream) -> None:
    """Of a project that has answers read to their end after the client has left."""
    server, access = own_proxy.started(WEB_CONCURRENCY="1")
    server.manage("PATCH", f"/projects/{access.project_id}", {"on_disconnect": "drain"})
    with RawClient(server.port) as client:
        client.request("GET", "/v1/behave/flood", [access.bearer])
        assert upstream.asked.wait(20)
        client.read_head()
    assert not upstream.left.wait(1), "it is read on"
    server.manage("DELETE", f"/tokens/{access.token_id}")
    assert upstream.left.wait(20)
    (event,) = server.events(1)
    assert event["outcome"] == "client_gone"
