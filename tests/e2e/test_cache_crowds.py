"""Many identical requests at once, over two workers: one upstream call, and every body whole."""

import re
import socket
from collections import Counter
from collections.abc import Iterator

import gevent
import pytest
import requests
from gevent.lock import Semaphore

from tests.support.fake_upstream import BEHAVIOURS, CHAT, Conversation, chat_events
from tests.support.raw_cache_house import (
    CHAT_PATH,
    JSON_TYPE,
    SSE_TYPE,
    CacheHouse,
    asking,
    whole,
)
from tests.support.raw_client import RawClient, RawResponse
from tests.support.raw_requests import error_of
from tests.support.wait import wait_until

EVENTS = chat_events()
WAITING = 500


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CacheHouse]:
    folder = tmp_path_factory.mktemp("crowd")
    with CacheHouse(folder, WEB_CONCURRENCY="2") as made:
        yield made


def gated(talk: Conversation) -> None:
    talk.events(EVENTS, gated=True)


def figures(house: CacheHouse) -> tuple[int, int]:
    """Return how many requests are in flight, and how many readers all flights have. A worker that
    follows a flight of the other one is a reader, too."""
    page = requests.get(f"{house.proxy.url}/metrics", timeout=30).text
    sums = []
    for name in ("proxy_requests_in_flight", "proxy_flight_readers"):
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)", page, re.MULTILINE)
        sums.append(sum(int(float(each)) for each in found))
    return sums[0], sums[1]


def wait_for(house: CacheHouse, count: int) -> None:
    """Wait until so many requests wait for a response, or read one, that they share."""
    wait_until(lambda: min(figures(house)) >= count, seconds=90)


class Crowd:
    """Clients that ask for the same at once, each on its own connection."""

    def __init__(
        self, house: CacheHouse, token: str, body: bytes, count: int, spread: float = 0.0
    ) -> None:
        self.names: list[str] = []
        self._house = house
        # Some come while the others are served.
        self._jobs = [
            gevent.spawn_later(number % 16 * spread, self._ask, token, body)
            for number in range(count)
        ]

    def _ask(self, token: str, body: bytes) -> RawResponse:
        head = self._house.head(token, JSON_TYPE)
        self.names.append(head[1][1])
        with RawClient(self._house.proxy.port, timeout=90) as client:
            client.request("POST", CHAT_PATH, head, body)
            return client.read_response("POST")

    def responses(self) -> list[RawResponse]:
        gevent.joinall(self._jobs, timeout=120, raise_error=True)
        return [job.value for job in self._jobs]


def test_each_crowd_costs_one_call(house: CacheHouse) -> None:
    """Also where the response is there before the last request has come."""
    token = house.token(coalesce="on")
    for _ in range(30):
        name = house.upstream.script(whole(CHAT))
        responses = Crowd(house, token, asking(name), 32, spread=0.001).responses()
        assert {each.body for each in responses} == {responses[0].body}
        assert len(house.upstream.asked_for(name)) == 1


def test_hundreds_wait_for_one_response(house: CacheHouse) -> None:
    token = house.token(coalesce="on")
    name = house.upstream.script(gated)
    crowd = Crowd(house, token, asking(name, stream=True), WAITING)
    wait_for(house, WAITING)
    house.upstream.permit(len(EVENTS))
    responses = crowd.responses()
    assert {(each.status, each.body, each.clean) for each in responses} == {
        (200, b"".join(EVENTS), True)
    }
    assert len(house.upstream.asked_for(name)) == 1
    statuses = Counter(each.values("Cache-Status")[0] for each in responses)
    assert statuses == {
        "openai-proxy; fwd=uri-miss": 1,
        "openai-proxy; fwd=uri-miss; collapsed": WAITING - 1,
    }
    events = [house.event_of(each) for each in crowd.names]
    (paid,) = [each for each in events if "cache" not in each]
    assert (paid["outcome"], paid["metadata"]["total_tokens"]) == ("completed", 21)
    shared = [each for each in events if "cache" in each]
    assert len(shared) == WAITING - 1
    assert {
        (
            each["outcome"],
            each["cache"],
            each["saved_prompt_tokens"],
            each["saved_completion_tokens"],
            each["metadata"]["total_tokens"],
            each["metadata"]["model"],
        )
        for each in shared
    } == {("cached", "collapsed", 9, 12, 0, "gpt-4.1-mini")}
    wait_until(lambda: figures(house) == (0, 0))


def test_a_response_that_is_private_is_not_waited_for_one_by_one(house: CacheHouse) -> None:
    """Other caches let one waiter go at a time, each to find the same (varnish#1799, #2978,
    #3461)."""
    token = house.token(coalesce="on")

    def private(talk: Conversation) -> None:
        talk.upstream.gate.acquire()
        whole(CHAT, ("Cache-Control", "no-store"))(talk)

    name = house.upstream.script(private)
    crowd = Crowd(house, token, asking(name), 50)
    wait_for(house, 50)
    house.upstream.permit()
    # With the first head all others ask at once, each for itself.
    wait_until(lambda: len(house.upstream.asked_for(name)) == 50)
    house.upstream.permit(49)
    responses = crowd.responses()
    assert {each.status for each in responses} == {200}
    assert {each.values("X-Cache")[0] for each in responses} == {"MISS"}
    assert len(house.upstream.asked_for(name)) == 50


def test_an_upstream_that_fails_fails_for_all_at_once(house: CacheHouse) -> None:
    token = house.token(coalesce="on")

    def fail(talk: Conversation) -> None:
        talk.upstream.gate.acquire()
        BEHAVIOURS["garbage"](talk)
        talk.sock.close()

    name = house.upstream.script(fail)
    crowd = Crowd(house, token, asking(name), 40)
    wait_for(house, 40)
    house.upstream.permit()
    responses = crowd.responses()
    assert {each.status for each in responses} == {502}
    assert len({error_of(each) for each in responses}) == 1
    assert len(house.upstream.asked_for(name)) == 1
    # They do not all come back in the same second.
    assert len({value for each in responses for value in each.values("Retry-After")}) > 1


def test_a_response_that_breaks_off_breaks_off_for_all(house: CacheHouse) -> None:
    token = house.token(coalesce="on")

    def cut(talk: Conversation) -> None:
        talk.head("200 OK", [SSE_TYPE, ("Transfer-Encoding", "chunked")])
        talk.chunk(EVENTS[0])
        talk.upstream.gate.acquire()
        talk.sock.close()

    name = house.upstream.script(cut)
    house.upstream.gate = Semaphore(0)
    crowd = Crowd(house, token, asking(name, stream=True), 40)
    wait_for(house, 40)
    house.upstream.permit()
    responses = crowd.responses()
    assert {each.clean for each in responses} == {False}
    assert len(house.upstream.asked_for(name)) == 1
    events = [house.event_of(each) for each in crowd.names]
    assert {each["outcome"] for each in events} == {"aborted"}
    only = ("Cache-Control", "only-if-cached")
    assert house.ask(token, asking(name, stream=True), only).status == 504


def test_a_token_that_is_revoked_takes_its_own_reader_alone(house: CacheHouse) -> None:
    project = house.project(coalesce="on")
    made = [house.proxy.mint(project) for _ in range(2)]
    name = house.upstream.script(gated)
    house.upstream.gate = Semaphore(0)
    body = asking(name, stream=True)
    # The one that pays is among those that are cut.
    revoked = Crowd(house, made[0]["token"], body, 8)
    wait_for(house, 8)
    others = Crowd(house, made[1]["token"], body, 8)
    wait_for(house, 16)
    house.upstream.permit()
    assert house.proxy.manage("DELETE", f"/tokens/{made[0]['id']}").status_code == 204
    cut = revoked.responses()
    assert {each.clean and each.body.endswith(EVENTS[-1]) for each in cut} == {False}
    house.upstream.permit(len(EVENTS) - 1)
    assert {(each.body, each.clean) for each in others.responses()} == {(b"".join(EVENTS), True)}
    assert len(house.upstream.asked_for(name)) == 1
    paid = [house.event_of(each) for each in revoked.names]
    (payer,) = [each for each in paid if "cache" not in each]
    assert payer["metadata"]["total_tokens"] == 21


def test_who_does_not_read_holds_up_nobody(house: CacheHouse) -> None:
    token = house.token(coalesce="on")
    chunks = [*([b": %b\n\n" % (b"x" * 60_000)] * 250), *EVENTS]
    #: Bytes that each of those that read has.
    got = [0] * 4

    def stream(talk: Conversation) -> None:
        talk.upstream.gate.acquire()
        talk.head("200 OK", [SSE_TYPE, ("Transfer-Encoding", "chunked")])
        sent = 0
        for chunk in chunks:
            # At the pace of those that read, whatever the machine does besides.
            wait_until(lambda: sent - min(got) < 1_000_000, seconds=60)  # noqa: B023
            talk.chunk(chunk)
            sent += len(chunk)
        talk.end_chunks()

    name = house.upstream.script(stream)
    house.upstream.gate = Semaphore(0)
    body = asking(name, stream=True)

    def read(number: int) -> bool:
        with RawClient(house.proxy.port, timeout=90) as client:
            client.request("POST", CHAT_PATH, house.head(token, JSON_TYPE), body)
            client.read_head("POST")
            while chunk := client.read_chunk():
                got[number] += len(chunk)
            return chunk == b""

    with RawClient(house.proxy.port, timeout=90) as slow:
        slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.request("POST", CHAT_PATH, house.head(token, JSON_TYPE), body)
        wait_for(house, 1)
        jobs = [gevent.spawn(read, number) for number in range(len(got))]
        wait_for(house, 1 + len(got))
        house.upstream.permit()
        gevent.joinall(jobs, timeout=120, raise_error=True)
        assert [job.value for job in jobs] == [True] * len(got)
        assert set(got) == {len(b"".join(chunks))}
        assert len(house.upstream.asked_for(name)) == 1
        # It was too far behind for its chunks to be kept.
        assert not slow.read_response("POST").clean
