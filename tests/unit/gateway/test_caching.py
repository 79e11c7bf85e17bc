"""What requests of a project that keeps responses get, and what their events say."""

from typing import Any

import gevent
import pytest
from gevent.event import Event

from proxy.cache.fetched import Fetched, NoResponse
from proxy.cache.flight import Flight, FlightReader, FlightRoom
from proxy.core.errors import ClientError, ConnectFailed, ResponseBroken
from tests.support.cached_world import TTL, WHOLE, CachedWorld
from tests.support.relay_factories import (
    JSON,
    SSE,
    FakeResponse,
    Result,
    environ,
    serve,
    sized,
)
from tests.support.wait import wait_until
from tests.support.watched_request import BODY

RETRY = ("X-Stainless-Retry-Count", "1")
EVENTS = [
    b'data: {"model":"gpt-4.1","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n',
    b'data: {"model":"gpt-4.1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":'
    b'{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}\n\n',
    b"data: [DONE]\n\n",
]


def cache_status(result: Result) -> tuple[str, str]:
    return result.one("X-Cache"), result.one("Cache-Status")


class Held:
    """An upstream that responds when it is let go."""

    def __init__(self, it: CachedWorld, *chunks: Any, **head: Any) -> None:
        self.it, self.head = it, head
        self.chunks = chunks or (WHOLE,)
        self.asked, self.go = Event(), Event()
        it.world.transport.response = self

    def __call__(self) -> Any:
        self.asked.set()
        self.go.wait()
        self.it.responses.append(FakeResponse(self.chunks, **self.head))
        return self.it.responses[-1]


def test_a_response_is_kept_and_served() -> None:
    it = CachedWorld()
    first = it.send()
    assert cache_status(first) == ("MISS", "openai-proxy; fwd=uri-miss")
    it.clock.now += 10
    second = it.send()
    assert (second.code, second.body, it.calls) == (200, WHOLE, 1)
    assert cache_status(second) == ("HIT", "openai-proxy; hit; ttl=290")
    assert second.one("Age") == "10"
    assert second.all("X-Twice") == ["1", "2"]
    missed, hit = it.events
    assert (missed.outcome, missed.cache, missed.usage_source) == ("completed", None, "reported")
    assert (hit.outcome, hit.usage_source, hit.slot) == ("cached", "cached", -1)
    assert hit.cache is not None
    assert (hit.cache.saved_prompt_tokens, hit.cache.saved_completion_tokens) == (9, 12)
    assert it.access.settled == [21]
    assert it.access.steps.count("take_quota") == 1
    it.events[:] = [missed]
    it.check()


@pytest.mark.parametrize("coalesce", [False, True])
def test_a_stream_comes_back_chunk_for_chunk(coalesce: bool) -> None:
    it = CachedWorld(coalesce=coalesce)
    it.world.transport.response = lambda: FakeResponse(EVENTS, headers=SSE)
    first = it.send()
    wait_until(lambda: it.flights.figures().flights == 0)
    second = it.send()
    assert second.one("X-Cache") == "HIT"
    assert [each for each in second.chunks if each] == EVENTS
    assert first.body == second.body
    assert [event.stream for event in it.events] == [True, True]


@pytest.mark.parametrize("coalesce", [False, True])
def test_a_refused_quota_refuses_hits_too_and_nothing_is_asked(coalesce: bool) -> None:
    it = CachedWorld(coalesce=coalesce)
    it.send()
    it.access.quota = ClientError(code="quota_exceeded")
    result = it.send()
    assert (result.code, it.calls) == (429, 1)
    assert it.events[1].outcome == "rejected"


@pytest.mark.parametrize("coalesce", [False, True])
def test_a_quota_that_ends_at_the_miss_refuses(
    coalesce: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(coalesce=coalesce)
    monkeypatch.setattr(it.access, "check_quota", lambda *_: None)
    it.access.quota = ClientError(code="quota_exceeded")
    result = it.send()
    assert (result.code, it.calls) == (429, 0)
    (event,) = it.events
    assert (event.outcome, event.error_code, event.cache) == ("rejected", "quota_exceeded", None)


def test_a_refusal_is_that_of_the_first_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    it = CachedWorld(coalesce=True)
    taking, go = Event(), Event()
    real = it.access.take_quota

    def take_quota(*args: Any) -> None:
        if not taking.is_set():
            taking.set()
            go.wait()
            it.access.held.append(args[1])
            raise ClientError(code="quota_exceeded")
        real(*args)

    monkeypatch.setattr(it.access, "take_quota", take_quota)
    first = gevent.spawn(it.send)
    assert taking.wait(20)
    others = [gevent.spawn(it.send) for _ in range(2)]
    wait_until(lambda: it.flights.figures().readers == 3)
    go.set()
    assert first.get(timeout=20).code == 429
    assert [each.get(timeout=20).body for each in others] == [WHOLE] * 2
    wait_until(lambda: len(it.events) == 3)
    assert it.calls == 1
    assert sorted(str(event.outcome) for event in it.events) == [
        "cached", "completed", "rejected",
    ]  # fmt: skip


def test_requests_that_join_are_told_so_and_cost_nothing() -> None:
    it = CachedWorld(coalesce=True)
    upstream = Held(it, headers=[*JSON, ("Set-Cookie", "a=b")])
    first = gevent.spawn(it.send)
    assert upstream.asked.wait(20)
    joined = gevent.spawn(it.send)
    wait_until(lambda: it.flights.figures().readers == 2)
    upstream.go.set()
    owner, follower = first.get(timeout=20), joined.get(timeout=20)
    assert cache_status(owner) == ("MISS", "openai-proxy; fwd=uri-miss")
    assert cache_status(follower) == ("MISS", "openai-proxy; fwd=uri-miss; collapsed")
    assert (owner.all("Set-Cookie"), follower.all("Set-Cookie")) == (["a=b"], [])
    wait_until(lambda: len(it.events) == 2)
    assert it.access.settled == [21]
    assert sorted(event.usage_source for event in it.events) == ["cached", "reported"]
    assert len(it.world.events.intents) == 1


def test_the_event_of_a_client_that_left_says_what_the_flight_cost() -> None:
    it = CachedWorld(coalesce=True)
    upstream = Held(it)
    first = gevent.spawn(it.ask)
    assert upstream.asked.wait(20)
    joined = gevent.spawn(it.send)
    wait_until(lambda: it.flights.figures().readers == 2)
    it.client.close()
    first.join(20)
    assert it.events == []
    upstream.go.set()
    assert joined.get(timeout=20).body == WHOLE
    wait_until(lambda: len(it.events) == 2)
    (owner,) = [event for event in it.events if event.cache is None]
    assert (owner.outcome, owner.status_code, owner.usage_source) == (
        "client_gone", 499, "reported",
    )  # fmt: skip
    assert owner.metadata["total_tokens"] == 21
    it.events[:] = [owner]
    it.check()


def test_a_private_response_is_not_shared() -> None:
    it = CachedWorld(coalesce=True)
    upstream = Held(it, headers=[*JSON, ("Cache-Control", "private")])
    asking = [gevent.spawn(it.send) for _ in range(3)]
    wait_until(lambda: it.flights.figures().readers == 3)
    upstream.go.set()
    assert [each.get(timeout=20).body for each in asking] == [WHOLE] * 3
    wait_until(lambda: len(it.events) == 3)
    assert it.calls == 3
    assert it.access.settled == [21] * 3
    assert it.cache.rejected == {"private": 3}


def test_an_error_before_the_head_is_that_of_all() -> None:
    it = CachedWorld(coalesce=True)
    upstream = Held(it)
    first = gevent.spawn(it.send)
    assert upstream.asked.wait(20)
    joined = gevent.spawn(it.send)
    wait_until(lambda: it.flights.figures().readers == 2)
    it.responses.append(FakeResponse())
    it.responses.clear()
    upstream.chunks = (ResponseBroken("gone"),)
    upstream.go.set()
    results = [first.get(timeout=20), joined.get(timeout=20)]
    assert all(isinstance(each.error, ConnectionResetError) for each in results)
    wait_until(lambda: len(it.events) == 2)
    assert {event.outcome for event in it.events} == {"aborted"}
    assert it.cache.size().items == 0


def test_a_held_response_is_taken_over_by_the_retry() -> None:
    it = CachedWorld(mode="off", hold=True)
    upstream = Held(it)
    first = gevent.spawn(it.ask)
    assert upstream.asked.wait(20)
    it.client.close()
    first.join(20)
    retry = gevent.spawn(it.send, RETRY)
    wait_until(lambda: it.flights.figures().readers == 1)
    upstream.go.set()
    result = retry.get(timeout=20)
    assert (result.body, it.calls, result.all("X-Cache")) == (WHOLE, 1, [])
    wait_until(lambda: len(it.events) == 2)
    (owner,) = [event for event in it.events if event.cache is None]
    assert (owner.outcome, owner.metadata["total_tokens"]) == ("client_gone", 21)
    it.events[:] = [owner]
    it.check()


# While the upstream fails.


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize("fails", ["connect", "status"])
def test_an_expired_response_serves_while_the_upstream_fails(coalesce: bool, fails: str) -> None:
    it = CachedWorld(stale=100.0, coalesce=coalesce)
    it.send()
    it.clock.now += TTL + 10
    if fails == "connect":
        it.world.transport.response = lambda: ConnectFailed("refused")
    else:
        it.world.transport.response = lambda: it.respond_with(503)
    result = it.send()
    assert (result.code, result.body) == (200, WHOLE)
    assert cache_status(result) == ("HIT", "openai-proxy; hit; ttl=-10; detail=stale-if-error")
    wait_until(lambda: len(it.events) == 2)
    event = it.events[1]
    assert (event.outcome, event.cache and event.cache.how) == ("cached", "stale")
    assert event.cache is not None
    assert event.cache.saved_completion_tokens == 12
    it.events[:] = [event]
    it.check()


def test_all_requests_of_a_flight_that_fails_get_the_expired_response() -> None:
    it = CachedWorld(stale=100.0, coalesce=True)
    it.send()
    it.events.clear()
    it.clock.now += TTL + 10
    asked, go = Event(), Event()

    def failing() -> Any:
        asked.set()
        go.wait()
        return ConnectFailed("refused")

    it.world.transport.response = failing
    asking = [gevent.spawn(it.send) for _ in range(3)]
    wait_until(lambda: it.flights.figures().readers == 3)
    go.set()
    assert [each.get(timeout=20).body for each in asking] == [WHOLE] * 3
    wait_until(lambda: len(it.events) == 3)
    for event in it.events:
        assert event.cache is not None
        assert (event.cache.how, event.cache.saved_completion_tokens) == ("stale", 12)


def test_without_a_cache_the_request_is_relayed() -> None:
    it = CachedWorld(opens=False, coalesce=True)
    result = it.send()
    assert (result.code, result.body) == (200, WHOLE)
    assert cache_status(result) == ("BYPASS", "openai-proxy; fwd=bypass; detail=unavailable")
    assert it.events[0].outcome == "completed"
    assert it.caching.results == {"bypass": 1}
    it.check()


@pytest.mark.parametrize("opens", [False, True])
def test_only_if_cached_asks_nobody(opens: bool) -> None:
    it = CachedWorld(opens=opens)
    result = it.send(("Cache-Control", "only-if-cached"))
    assert (result.code, it.calls) == (504, 0)
    assert b"not_cached" in result.body
    assert result.one("X-Cache") == ("MISS" if opens else "BYPASS")
    assert "take_quota" not in it.access.steps


# A flight's own way, and its end.


def test_a_request_that_goes_its_own_way_is_drained_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = CachedWorld(coalesce=True, drains=True)

    def gone(*_: Any, **__: Any) -> FlightReader:
        """The flights of requests that are refused, one after the other."""
        flight = Flight(FlightRoom(1000), limit=1000)
        reader = flight.open()
        reader.owns = False
        flight.start(nothing)
        return reader

    def nothing() -> Fetched:
        raise NoResponse

    monkeypatch.setattr(it.flights, "join_or_begin", gone)
    it.world.transport.response = lambda: it.respond_with(200, *EVENTS, headers=SSE)
    it.send(stop_after=1)
    wait_until(lambda: any(event.usage_source == "reported" for event in it.events))
    (event,) = it.events
    assert (event.outcome, event.metadata["total_tokens"]) == ("client_gone", 21)


def test_an_event_does_not_wait_until_the_response_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = CachedWorld(coalesce=True)
    storing, stored = Event(), Event()

    def flush(*_: Any) -> bool:
        storing.set()
        return stored.wait()

    monkeypatch.setattr(it.cache, "flush", flush)
    asking = gevent.spawn(it.ask)
    assert storing.wait(20)
    asking.join(20)
    wait_until(lambda: len(it.events) == 1)
    assert not any(it.limited.places.taken.values())
    assert it.events[0].metadata["total_tokens"] == 21
    stored.set()
    wait_until(lambda: it.flights.figures().flights == 0)
    it.check()


def test_a_change_makes_what_is_stored_void_also_in_a_flight() -> None:
    it = CachedWorld(hold=True)
    forgotten: list[tuple[str, str]] = []
    it.cache.forget = lambda *args: forgotten.append(args)  # type: ignore[method-assign]
    sent = environ("POST", "/v1/batches", **sized(BODY))
    serve(it.world.endpoint, sent)
    wait_until(lambda: len(it.events) == 1)
    assert forgotten == [("project-1", "/v1/batches")]


def test_an_estimate_is_charged_although_the_client_left_before_the_head() -> None:
    it = CachedWorld(coalesce=True)
    unreported = WHOLE[: WHOLE.index(b',"usage"')] + b"}"
    upstream = Held(it, unreported)
    first = gevent.spawn(it.ask)
    assert upstream.asked.wait(20)
    joined = gevent.spawn(it.send)
    wait_until(lambda: it.flights.figures().readers == 2)
    it.client.close()
    first.join(20)
    upstream.go.set()
    joined.get(timeout=20)
    wait_until(lambda: len(it.events) == 2)
    (owner,) = [event for event in it.events if event.cache is None]
    assert owner.usage_source == "estimated"
    (charged,) = it.access.settled
    assert charged > 0
    it.events[:] = [owner]
    it.check()


def test_a_retry_whose_first_request_is_gone_joins_others_like_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    it = CachedWorld(coalesce=True, hold=True)

    def adopt(*_: Any) -> FlightReader:
        """A flight in another worker, which has ended meanwhile."""
        flight = Flight(FlightRoom(1000), limit=1000)
        reader = flight.open()
        flight.start(nothing)
        return reader

    def nothing() -> Fetched:
        raise NoResponse

    monkeypatch.setattr(it.flights, "adopt", adopt)
    upstream = Held(it)
    asking = [gevent.spawn(it.send, RETRY) for _ in range(2)]
    wait_until(lambda: it.flights.figures().readers == 2)
    upstream.go.set()
    assert [each.get(timeout=20).body for each in asking] == [WHOLE] * 2
    assert it.calls == 1
