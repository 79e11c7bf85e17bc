"""Shared responses through the real server, with two workers: who comes, who leaves, who pays."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import requests
from gevent.lock import Semaphore

from proxy.runtime.mapped_file import HEADER_SIZE, MappedFile, since_boot
from tests.support.cache_house import House as CacheHouse
from tests.support.fake_upstream import Upstream, chat_events
from tests.support.proxy_access import ProxyFactory
from tests.support.server import ProxyServer
from tests.support.services import RedisServer
from tests.support.wait import wait_until

GATED: dict[str, Any] = {
    "model": "gated",
    "stream": True,
    "stream_options": {"include_usage": True},
    "messages": [{"role": "user", "content": "Hi"}],
}
EVENTS = chat_events()
SETTINGS = {"REVOCATION_INTERVAL": "0.2", "CACHE_TTL": "5m", "WEB_CONCURRENCY": "2"}


class Reading:
    """A response that a client reads."""

    def __init__(self, response: requests.Response) -> None:
        self.response = response
        # Kept: the connection is closed when nobody has it any more.
        self._chunks = response.iter_content(None)

    def chunk(self) -> bytes:
        return bytes(next(self._chunks))

    def rest(self) -> bytes:
        return b"".join(self._chunks)

    def leave(self) -> None:
        self.response.close()


def claims(proxy: ProxyServer) -> int:
    """How many keys the workers of the node have claimed."""
    table = MappedFile(
        proxy.folder / "data" / "flights" / "flights-1", b"proxy flights 1", 4096 * 32
    )
    table.lock()
    try:
        leases = table.doubles.tolist()[HEADER_SIZE // 8 + 3 :: 4]
        return sum(lease > since_boot() for lease in leases)
    finally:
        table.unlock()
        table.close()


def owner_pid(proxy: ProxyServer) -> int:
    """The only worker that others can follow, by its socket."""
    (path,) = (proxy.folder / "data" / "flights").glob("*.sock")
    (inode,) = [
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()
        # The name that it was bound to.
        if line.endswith(f"/.{path.name}")
    ]
    for pid in proxy.worker_pids():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return pid
    raise LookupError(path)


class House(CacheHouse):
    """Projects that share responses, in front of an upstream with a gate."""

    def token(self, limits: dict[str, Any] | None = None, **fields: Any) -> str:
        # What the calls of another test wait for is not for this one's.
        self.upstream.gate = Semaphore(0)
        return super().token(limits, **fields)

    def read(self, token: str, number: int = 0, **headers: str) -> Reading:
        """Ask on a connection of its own. `number` tells one question from another."""
        response = self.ask(token, {**GATED, "seed": number}, stream=True, **headers)
        assert response.status_code == 200, response.text
        return Reading(response)

    def open_gate(self, events: int) -> None:
        for _ in range(events):
            self.upstream.gate.release()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("flights")
    upstream = Upstream()
    proxy = ProxyServer(folder, upstream.url, **SETTINGS).start()
    yield House(proxy, upstream)
    assert proxy.stop() == 0, proxy.log_text()
    upstream.stop()
    assert "Traceback" not in proxy.log_text(), proxy.log_text()


def test_a_client_that_leaves_alone_ends_the_call(house: House) -> None:
    token = house.token(coalesce="on")
    response = house.read(token)
    house.open_gate(1)
    assert response.chunk() == EVENTS[0]
    response.leave()
    event = house.event(response.response)
    assert event["outcome"] == "client_gone"


def test_the_first_client_leaves_and_the_others_get_all_of_it(house: House) -> None:
    token = house.token(coalesce="on")
    asked = len(house.upstream.received)
    first = house.read(token, 1)
    house.open_gate(1)
    assert first.chunk() == EVENTS[0]
    others = [house.read(token, 1) for _ in range(6)]
    assert [each.response.headers["Cache-Status"] for each in others] == [
        "openai-proxy; fwd=uri-miss; collapsed"
    ] * 6
    first.leave()
    house.open_gate(len(EVENTS) - 1)
    bodies = [gevent.spawn(each.rest) for each in others]
    gevent.joinall(bodies, timeout=60)
    assert {job.value for job in bodies} == {b"".join(EVENTS)}
    assert len(house.upstream.received) == asked + 1
    for each in others:
        event = house.event(each.response)
        assert (event["outcome"], event["cache"]) == ("cached", "collapsed")
    paid = house.event(first.response)
    assert paid["outcome"] == "client_gone"
    assert paid["metadata"]["total_tokens"] > 0
    assert (event["saved_prompt_tokens"], event["saved_completion_tokens"]) == (
        paid["metadata"]["prompt_tokens"],
        paid["metadata"]["completion_tokens"],
    )


def test_a_retry_takes_over_what_its_client_left_in_whichever_worker(house: House) -> None:
    """One call is paid once, and the client changes nothing."""
    token = house.token(cache="off", on_disconnect="hold")
    for number in range(6):
        wait_until(lambda: claims(house.proxy) == 0)
        house.upstream.gate = Semaphore(0)
        asked = len(house.upstream.received)
        first = house.read(token, 100 + number)
        house.open_gate(1)
        assert first.chunk() == EVENTS[0]
        first.leave()
        wait_until(lambda: claims(house.proxy) == 1)
        retry = house.read(token, 100 + number, x_stainless_retry_count="1")
        house.open_gate(len(EVENTS) - 1)
        assert retry.rest() == b"".join(EVENTS)
        assert len(house.upstream.received) == asked + 1
        assert house.event(first.response)["outcome"] == "client_gone"
        assert house.event(retry.response)["outcome"] == "cached"


def test_a_worker_that_is_killed_breaks_its_followers_off(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    """No response looks complete, and the next request is served."""
    house = House(own_proxy(**SETTINGS).start(), upstream)
    token = house.token(coalesce="on")
    owner = house.read(token)
    pid = owner_pid(house.proxy)
    house.open_gate(1)
    assert owner.chunk() == EVENTS[0]
    followers = [house.read(token) for _ in range(8)]
    assert len(upstream.received) == 1
    os.kill(pid, signal.SIGKILL)
    for each in (owner, *followers):
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            each.rest()
    upstream.gate = Semaphore(0)
    again = house.read(token)
    house.open_gate(len(EVENTS))
    assert again.rest() == b"".join(EVENTS)
    assert len(upstream.received) == 2
    assert house.event(owner.response)["outcome"] == "unknown"


def test_a_worker_that_stops_reads_on_for_those_that_follow_it(
    own_proxy: ProxyFactory, upstream: Upstream
) -> None:
    proxy = own_proxy(**SETTINGS).start()
    house = House(proxy, upstream)
    token = house.token(coalesce="on")
    owner = house.read(token)
    house.open_gate(1)
    assert owner.chunk() == EVENTS[0]
    pid = owner_pid(proxy)
    followers = [house.read(token) for _ in range(8)]
    owner.leave()
    os.kill(pid, signal.SIGTERM)
    gevent.sleep(2.5)  # a worker with nothing left to do would have ended
    house.open_gate(len(EVENTS) - 1)
    assert {each.rest() for each in followers} == {b"".join(EVENTS)}
    event = house.event(owner.response)
    assert (event["outcome"], event["metadata"]["total_tokens"]) == ("client_gone", 21)
    wait_until(lambda: pid not in proxy.worker_pids())
    assert proxy.stop() == 0, proxy.log_text()
    assert "Traceback" not in proxy.log_text()


def test_nodes_ask_the_upstream_once_for_an_identical_question(
    own_proxy: ProxyFactory, upstream: Upstream, mysql_url: str, redis_server: RedisServer
) -> None:
    settings = {**SETTINGS, "DATABASE_URL": mysql_url, "CACHE_URL": redis_server.url}
    with redis_server.client() as client:
        before = set(client.keys("op:f:*"))
    first, second = (House(own_proxy(**settings).start(), upstream) for _ in range(2))
    token = first.token(coalesce="on")
    owner = first.read(token)
    with redis_server.client() as client:
        (claim,) = set(client.keys("op:f:*")) - before
    waiting = [gevent.spawn(second.read, token) for _ in range(4)]
    gevent.sleep(0.2)  # whether they wait already or not: they get the same
    second.open_gate(len(EVENTS))
    assert owner.rest() == b"".join(EVENTS)
    gevent.joinall(waiting, timeout=60)
    assert {job.value.rest() for job in waiting} == {b"".join(EVENTS)}
    assert {job.value.response.headers["X-Cache"] for job in waiting} == {"HIT"}
    assert len(upstream.received) == 1
    with redis_server.client() as client:
        wait_until(lambda: not client.exists(claim))
