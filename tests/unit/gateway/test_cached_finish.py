"""Whatever ends a request of a project that keeps responses, and wherever: nothing is held."""

from collections.abc import Callable
from typing import Any, Literal

import gevent
import pytest
from gevent.event import Event

from proxy.cache.idempotency import KeyedRequest
from proxy.gateway.context import RequestContext
from proxy.gateway.inflight import QuotaExhausted
from tests.support.cached_world import WHOLE, CachedWorld
from tests.support.wait import wait_until
from tests.support.watched_request import INTERRUPTIONS, NAMES

STEPS = [
    (which, at)
    for which in ("before_lookup", "after_miss")
    for at in range(len(getattr(CachedWorld().world.endpoint, which)))
]
BY_NAME = dict(zip(NAMES, INTERRUPTIONS, strict=True))
#: What may be raised in the pump of a flight, into which nothing is thrown.
FAILURES = {name: BY_NAME[name] for name in ("refused", "overloaded", "upstream", "defect")}
#: What may be thrown into the greenlet of a request, at each of its waits.
THROWN = {name: BY_NAME[name] for name in ("left", "revoked", "stopping", "killed")}


def at_step(it: CachedWorld, which: str, at: int, done: bool, interrupt: Callable[[], Any]) -> None:
    endpoint = it.world.endpoint
    steps = list(getattr(endpoint, which))
    step = steps[at]

    def interrupted(context: RequestContext) -> None:
        if not done:
            interrupt()
        step(context)
        if done:
            interrupt()

    steps[at] = interrupted
    setattr(endpoint, which, tuple(steps))


def raising(error: Callable[[], BaseException]) -> Callable[..., Any]:
    def interrupted(*args: Any, **more: Any) -> Any:
        raise error()

    return interrupted


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("which", "at"), STEPS)
def test_a_request_that_ends_at_a_step_leaves_nothing(
    which: str, at: int, done: bool, error: Callable[[], BaseException]
) -> None:
    it = CachedWorld()
    at_step(it, which, at, done, raising(error))
    it.ask()
    it.check()
    assert it.calls == 0


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=NAMES)
@pytest.mark.parametrize("where", ["opening", "reading", "lookup", "upstream", "head", "response"])
def test_a_request_that_ends_later_leaves_nothing(
    where: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld()
    interrupted = raising(error)
    if where == "opening":
        monkeypatch.setattr(it.caching, "_opened", interrupted)
    elif where == "reading":
        monkeypatch.setattr("proxy.cache.request_reader.RequestReader.read", interrupted)
    elif where == "lookup":
        monkeypatch.setattr(it.cache, "get", interrupted)
    elif where == "upstream":
        it.world.transport.response = interrupted
    elif where == "head":
        monkeypatch.setattr("proxy.gateway.endpoint.downstream_headers", interrupted)
    else:
        it.world.transport.response = lambda: it.respond(b"{", error())
    it.ask()
    it.check()
    assert it.cache.size().items == 0


@pytest.mark.parametrize("stop_after", [0, 1, None])
@pytest.mark.parametrize("coalesce", [False, True])
def test_a_request_that_is_served_leaves_nothing(stop_after: int | None, coalesce: bool) -> None:
    it = CachedWorld(coalesce=coalesce)
    it.ask(stop_after=stop_after)
    it.check()


@pytest.mark.parametrize("stop_after", [0, 1, None])
def test_a_hit_leaves_nothing(stop_after: int | None) -> None:
    it = CachedWorld()
    it.send()
    it.events.clear()
    it.world.events.intents.clear()
    it.ask(stop_after=stop_after)
    event = it.check()
    assert (event.cache is not None, it.calls) == (True, 1)


# A flight: its pump is at some place, and its request ends.

PLACES = ["quota", "counted", "sending", "head", "response", "rest", "storing"]
KEY = ("Idempotency-Key", "one")
#: What becomes of a flight whose last reader has left, and the fields that say so.
ENDS: dict[str, dict[str, Any]] = {
    "cancelled": {},
    "drained": {"drains": True},
    "held": {"hold": True},
    "keyed": {"idempotency": True},
}


class Stopped:
    """A pump that waits at a place until it is let go."""

    def __init__(self, it: CachedWorld, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.go = Event(), Event()
        if place == "quota":
            at_step(it, "after_miss", 0, False, self.wait)
        elif place == "counted":
            at_step(it, "after_miss", 1, True, self.wait)
        elif place == "sending":
            it.world.transport.response = lambda: (self.wait(), it.respond())[1]
        elif place == "head":
            real = it.caching.fetched
            monkeypatch.setattr(it.caching, "fetched", lambda *args: (self.wait(), real(*args))[1])
        elif place == "response":
            it.world.transport.response = lambda: it.respond(self.chunk)
        elif place == "rest":
            it.world.transport.response = lambda: it.respond(WHOLE[:9], self.rest)
        else:
            monkeypatch.setattr(it.cache, "flush", self.wait)

    def wait(self, *_: Any) -> None:
        self.there.set()
        self.go.wait()

    def chunk(self) -> bytes:
        self.wait()
        return WHOLE

    def rest(self) -> bytes:
        self.wait()
        return WHOLE[9:]


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("place", PLACES)
def test_a_flight_that_fails_leaves_nothing(
    place: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(coalesce=True)
    monkeypatch.setattr(Stopped, "wait", raising(error))
    Stopped(it, place, monkeypatch)
    it.ask()
    it.check()


@pytest.mark.parametrize("error", THROWN.values(), ids=THROWN)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("ends", ENDS)
def test_the_request_of_a_flight_that_ends_leaves_nothing(
    ends: str, place: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(coalesce=True, **ENDS[ends])
    stopped = Stopped(it, place, monkeypatch)
    asking = gevent.spawn(it.ask, *([KEY] if ends == "keyed" else []))
    assert stopped.there.wait(20)
    asking.kill(error(), block=False)
    asking.join(20)
    stopped.go.set()
    wait_until(lambda: len(it.events) == 1)
    it.flights.stop(seconds=20)  # what is held
    event = it.check()
    if ends != "cancelled" and place != "storing" and event.outcome == "client_gone":
        assert (event.usage_source, it.access.settled) == ("reported", [21])


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("place", ["sending", "rest"])
@pytest.mark.parametrize("cut", [QuotaExhausted, THROWN["revoked"]], ids=["spent", "revoked"])
def test_nothing_goes_on_for_a_request_that_is_cut(
    cut: Callable[[], BaseException], place: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(coalesce=True, **ENDS[ends])
    stopped = Stopped(it, place, monkeypatch)
    asking = gevent.spawn(it.ask, *([KEY] if ends == "keyed" else []))
    assert stopped.there.wait(20)
    asking.kill(cut(), block=False)
    asking.join(20)
    wait_until(lambda: len(it.events) == 1)
    assert it.check().outcome == "aborted"


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("place", [*PLACES, "claim", "mark", "result"])
def test_a_keyed_request_that_fails_leaves_nothing(
    place: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(idempotency=True)
    methods = {"claim": "claim", "mark": "put_record", "result": "put_record"}
    if place in methods:
        real = it.cache.records.put_record

        def put_record(name: str, *args: Any, **more: Any) -> Any:
            if ("sent" in name) == (place == "mark"):
                raise error()
            return real(name, *args, **more)

        failing = raising(error) if place == "claim" else put_record
        monkeypatch.setattr(it.cache.records, methods[place], failing)
    else:
        monkeypatch.setattr(Stopped, "wait", raising(error))
        Stopped(it, place, monkeypatch)
    it.ask(KEY)
    wait_until(lambda: it.flights.figures().flights == 0)
    it.check()
    assert it.opened is not None
    assert it.opened.idempotency._running == {}


@pytest.mark.parametrize("error", THROWN.values(), ids=THROWN)
def test_a_keyed_request_that_ends_while_it_waits_for_another_leaves_nothing(
    error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(idempotency=True)
    waiting = Event()
    monkeypatch.setattr(it.flights, "join", lambda *_, **__: waiting.set())

    def find(keyed: KeyedRequest) -> None:
        keyed.is_running = True

    monkeypatch.setattr(KeyedRequest, "find", find)
    asking = gevent.spawn(it.ask, KEY)
    assert waiting.wait(20)
    asking.kill(error(), block=False)
    asking.join(20)
    it.check()
    assert it.calls == 0


def serve_the_other(
    it: CachedWorld,
    stopped: Stopped,
    error: Callable[[], BaseException],
    *,
    ends: Literal["first", "second"],
) -> None:
    """Of two requests that read a flight, end one while the pump waits. The other is served."""
    asks = {"first": it.send, "second": it.send, ends: it.ask}
    first = gevent.spawn(asks["first"])
    assert stopped.there.wait(20)
    second = gevent.spawn(asks["second"])
    wait_until(lambda: it.flights.figures().readers == 2 or second.dead)
    ending, other = (first, second) if ends == "first" else (second, first)
    ending.kill(error(), block=False)
    ending.join(20)
    stopped.go.set()
    assert other.get(timeout=20).body == WHOLE
    wait_until(lambda: len(it.events) == 2)


@pytest.mark.parametrize("error", THROWN.values(), ids=THROWN)
@pytest.mark.parametrize("place", PLACES)
def test_one_that_joined_is_served_when_the_first_request_ends(
    place: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(coalesce=True)
    stopped = Stopped(it, place, monkeypatch)
    serve_the_other(it, stopped, error, ends="first")
    (owner,) = [each for each in it.events if each.cache is None]
    (other,) = [each for each in it.events if each.cache is not None]
    assert (other.outcome, other.status_code) == ("cached", 200)
    assert other.cache is not None
    assert other.cache.saved_completion_tokens == 12
    assert owner.usage_source == "reported"
    assert it.access.settled == [21]
    it.events[:] = [owner]
    it.check()


@pytest.mark.parametrize("error", THROWN.values(), ids=THROWN)
@pytest.mark.parametrize("place", PLACES)
def test_one_that_joined_and_ends_leaves_nothing(
    place: str, error: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = CachedWorld(coalesce=True)
    stopped = Stopped(it, place, monkeypatch)
    serve_the_other(it, stopped, error, ends="second")
    it.events[:] = [each for each in it.events if each.cache is None]
    it.check()
