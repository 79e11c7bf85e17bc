"""Shared responses through the real server, with two workers: who comes, who leaves, who pays."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import requests
from gevent.lock import Semaphore

from tests.support.fake_upstream import Upstream, chat_events
from tests.support.server import ProxyServer
from tests.support.wait import wait_until

GATED: dict[str, Any] = {
    "model": "gated",
    "stream": True,
    "messages": [{"role": "user", "content": "Hi"}],
}
EVENTS = chat_events(usage=False)


class Reading:
    """A response that a client reads."""

    def __init__(self, response: requests.Response) -> None:
        self.headers = response.headers
        self._response = response
        # Kept: the connection is closed when nobody has it any more.
        self._chunks = response.iter_content(None)

    def chunk(self) -> bytes:
        return bytes(next(self._chunks))

    def rest(self) -> bytes:
        return b"".join(self._chunks)

    def leave(self) -> None:
        self._response.close()


class House:
    """A proxy with projects that share responses, in front of an upstream with a gate."""

    def __init__(self, proxy: ProxyServer, upstream: Upstream) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self._events: dict[str, dict[str, Any]] = {}
        self._projects = self._asked = 0

    def token(self, **fields: Any) -> str:
        self._projects += 1
        # What the calls of another test wait for is not for this one's.
        self.upstream.gate = Semaphore(0)
        body = {"name": f"shared-{self._projects}", "api_key": "sk-upstream-real", **fields}
        made = self.proxy.manage("POST", "/projects", body)
        assert made.status_code == 201, made.text
        return str(self.proxy.mint(made.json()["id"])["token"])

    def ask(self, token: str, number: int = 0, **headers: str) -> Reading:
        """Ask on a connection of its own. `number` tells one question from another."""
        self._asked += 1
        lines = {"Authorization": f"Bearer {token}", "X-Request-ID": f"flight-{self._asked}"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = requests.post(
            f"{self.proxy.url}/v1/chat/completions",
            json={**GATED, "seed": number},
            headers=lines,
            stream=True,
            timeout=60,
        )
        assert response.status_code == 200, response.text
        return Reading(response)

    def open_gate(self, events: int) -> None:
        for _ in range(events):
            self.upstream.gate.release()

    def event(self, response: Reading) -> dict[str, Any]:
        name = response.headers["X-Proxy-Request-ID"]

        def arrived() -> bool:
            for each in self.proxy.events_so_far():
                self._events[each["request_id"]] = each
            return name in self._events

        wait_until(arrived)
        return self._events[name]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("flights")
    upstream = Upstream()
    settings = {"REVOCATION_INTERVAL": "0.2", "CACHE_TTL": "5m", "WEB_CONCURRENCY": "2"}
    proxy = ProxyServer(folder, upstream.url, **settings).start()
    yield House(proxy, upstream)
    assert proxy.stop() == 0, proxy.log_text()
    upstream.stop()
    assert "Traceback" not in proxy.log_text(), proxy.log_text()


def test_a_client_that_leaves_alone_ends_the_call(house: House) -> None:
    token = house.token(cache="on", coalesce="on")
    response = house.ask(token)
    house.open_gate(1)
    assert response.chunk() == EVENTS[0]
    response.leave()
    event = house.event(response)
    assert event["outcome"] == "client_gone"


def test_the_first_client_leaves_and_the_others_get_all_of_it(house: House) -> None:
    token = house.token(cache="on", coalesce="on")
    asked = len(house.upstream.received)
    first = house.ask(token, 1)
    house.open_gate(1)
    assert first.chunk() == EVENTS[0]
    others = [house.ask(token, 1) for _ in range(6)]
    assert [each.headers["Cache-Status"] for each in others] == [
        "openai-proxy; fwd=uri-miss; collapsed"
    ] * 6
    first.leave()
    house.open_gate(len(EVENTS) - 1)
    bodies = [gevent.spawn(each.rest) for each in others]
    gevent.joinall(bodies, timeout=60)
    assert {job.value for job in bodies} == {b"".join(EVENTS)}
    assert len(house.upstream.received) == asked + 1
    for each in others:
        event = house.event(each)
        assert (event["outcome"], event["cache"]) == ("cached", "collapsed")
    paid = house.event(first)
    assert paid["outcome"] == "client_gone"
