"""The flights of one worker (``proxy/cache/flights.py``)."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from proxy.cache.fetched import Fetched
from proxy.cache.flight import Abandoned, Flight, FlightReader
from proxy.cache.flights import FlightFigures, Flights
from proxy.cache.key import CacheKey
from proxy.core.errors import ProxyError, UpstreamTimeout
from tests.support.clock import Clock
from tests.support.scripted_source import END, ScriptedSource, body, fetched, settle

KEY = CacheKey("project-1", b"k" * 32)
OTHER = CacheKey("project-1", b"o" * 32)
TOKEN = "token-1"


class Upstream:
    """Counts the calls, and responds when the test says so."""

    def __init__(self, *, shareable: bool = True) -> None:
        self.shareable = shareable
        self.sources: list[ScriptedSource] = []
        self.go = Event()

    def __call__(self) -> Fetched:
        source = ScriptedSource()
        self.sources.append(source)
        self.go.wait()
        return fetched(source, shareable=self.shareable)

    @property
    def calls(self) -> int:
        return len(self.sources)

    def end(self, *chunks: bytes) -> None:
        self.go.set()
        settle()
        for source in self.sources:
            source.put(*chunks, END)


def all_of(jobs: list[Any]) -> list[Any]:
    assert len(gevent.joinall(jobs, timeout=20)) == len(jobs), "somebody hangs"
    return [job.get() for job in jobs]


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def flights(clock: Clock) -> Iterator[Flights]:
    flights = Flights(entry_bytes=1 << 20, clock=clock)
    yield flights
    flights.stop(seconds=20)
    assert flights.figures() == FlightFigures(0, 0, 0)
    assert not flights._shared
    assert not flights._held


def hold(_: Flight) -> Abandoned:
    return Abandoned.HOLD


def test_one_call_for_500_identical_requests(flights: Flights, upstream: Upstream) -> None:
    readers = [flights.join_or_begin(KEY, upstream) for _ in range(500)]
    assert [reader.owns for reader in readers] == [True] + [False] * 499
    jobs = [gevent.spawn(body, reader) for reader in readers]
    settle()
    assert flights.figures() == FlightFigures(1, 500, 0)
    upstream.end(b"a", b"b")
    assert all_of(jobs) == [b"ab"] * 500
    assert upstream.calls == 1
    for reader in readers:
        reader.close()


def test_other_keys_are_other_flights(flights: Flights, upstream: Upstream) -> None:
    assert flights.join(KEY) is None
    mine = flights.join_or_begin(KEY, upstream)
    other = flights.join_or_begin(OTHER, upstream)
    assert other.owns
    joined = flights.join(KEY)
    assert joined is not None
    assert joined.flight is mine.flight is not other.flight
    for reader in (mine, other, joined):
        reader.close()


def test_who_does_not_share_has_a_flight_of_its_own(flights: Flights, upstream: Upstream) -> None:
    shared = flights.join_or_begin(KEY, upstream)
    alone = [flights.join_or_begin(KEY, upstream, shared=False) for _ in range(2)]
    assert all(reader.owns for reader in alone)
    assert len({reader.flight for reader in (shared, *alone)}) == 3
    again = flights.join(KEY)
    assert again is not None
    assert again.flight is shared.flight
    for reader in (shared, *alone, again):
        reader.close()


def test_a_flight_ends_after_its_response_is_stored(flights: Flights, upstream: Upstream) -> None:
    stored = Event()
    reader = flights.join_or_begin(KEY, upstream, on_end=[lambda _: stored.wait()])
    upstream.end(b"a")
    assert body(reader) == b"a"
    late = flights.join_or_begin(KEY, upstream)
    assert body(late) == b"a"
    stored.set()
    assert reader.flight.wait_until_over(20)
    assert flights.join(KEY) is None, "from here on it is found in the cache"
    assert upstream.calls == 1
    reader.close()
    late.close()


def test_after_a_failure_the_next_request_asks_again(flights: Flights, upstream: Upstream) -> None:
    reader = flights.join_or_begin(KEY, upstream)
    upstream.go.set()
    settle()
    upstream.sources[0].put(UpstreamTimeout())
    with pytest.raises(UpstreamTimeout):
        reader.read()
    again = flights.join_or_begin(KEY, upstream)
    assert again.owns
    reader.close()
    upstream.end(b"a")
    assert body(again) == b"a"
    again.close()


def test_requests_of_a_private_response_are_not_served_one_by_one(
    flights: Flights, clock: Clock
) -> None:
    """varnish#1799, #2978, #3461: 50 that wait all go at once, and later ones do not wait."""
    upstream = Upstream(shareable=False)
    owner = flights.join_or_begin(KEY, upstream)
    readers = [flights.join_or_begin(KEY, upstream) for _ in range(50)]

    def serve(reader: FlightReader) -> bytes:
        while reader.head() is None:
            reader = flights.join_or_begin(KEY, upstream)
        found = body(reader)
        reader.close()
        return found

    jobs = [gevent.spawn(serve, reader) for reader in (owner, *readers)]
    settle()
    assert upstream.calls == 1
    upstream.go.set()
    settle()
    assert upstream.calls == 51, "all have sent their request before any response has ended"
    assert flights.is_private(KEY)
    later = flights.join_or_begin(KEY, upstream)
    assert later.owns
    upstream.end(b"mine")
    assert all_of(jobs) == [b"mine"] * 51
    later.close()
    clock.now += 30
    assert not flights.is_private(KEY)
    upstream.shareable = True
    first, second = (flights.join_or_begin(KEY, upstream) for _ in range(2))
    assert (first.owns, second.owns) == (True, False)
    first.close()
    second.close()


def test_a_key_without_markers_gives_the_next_owner_to_those_that_wait(flights: Flights) -> None:
    """Twins with one Idempotency-Key: when the first fails, one of them tries, not all."""
    upstream = Upstream(shareable=False)
    owner = flights.join_or_begin(KEY, upstream, marked=False)
    readers = [flights.join_or_begin(KEY, upstream, marked=False) for _ in range(5)]
    upstream.go.set()
    settle()
    assert [reader.head() for reader in readers] == [None] * 5
    upstream.shareable = True
    again = [flights.join_or_begin(KEY, upstream, marked=False) for _ in range(5)]
    assert [reader.owns for reader in again] == [True] + [False] * 4
    for reader in (owner, *again):
        reader.close()


def test_markers_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cache.flights._MAX_MARKERS", 3)
    flights = Flights(entry_bytes=1 << 20, clock=clock)
    keys = [CacheKey("project-1", bytes([number]) * 32) for number in range(6)]
    for key in keys[:5]:
        flights.mark_private(key)
    assert [flights.is_private(key) for key in keys] == [False, False, True, True, True, False]
    flights.mark_private(keys[2])
    clock.now += 31
    flights.mark_private(keys[5])
    assert list(flights._private) == [keys[5]]


def test_a_retry_takes_over_what_its_client_left(flights: Flights, upstream: Upstream) -> None:
    first = flights.join_or_begin(KEY, upstream, shared=False, holder=TOKEN, on_abandoned=hold)
    assert flights.adopt(KEY, TOKEN) is None, "parallel calls are not retries"
    first.close()
    assert flights.adopt(KEY, "token-2") is None
    assert flights.adopt(OTHER, TOKEN) is None
    retry = flights.adopt(KEY, TOKEN)
    assert retry is not None
    assert retry.owns
    assert flights.adopt(KEY, TOKEN) is None, "each once"
    upstream.end(b"a")
    assert body(retry) == b"a"
    assert upstream.calls == 1
    retry.close()


def test_each_of_several_held_flights_is_taken_over_once(
    flights: Flights, upstream: Upstream
) -> None:
    readers = [
        flights.join_or_begin(KEY, upstream, shared=False, holder=TOKEN, on_abandoned=hold)
        for _ in range(2)
    ]
    for reader in readers:
        reader.close()
    taken = [flights.adopt(KEY, TOKEN) for _ in range(3)]
    assert [reader and reader.flight for reader in taken] == [
        readers[0].flight,
        readers[1].flight,
        None,
    ]
    for reader in taken[:2]:
        assert reader is not None
        reader.close()


def test_a_held_flight_is_given_up_in_the_end(upstream: Upstream) -> None:
    flights = Flights(entry_bytes=1 << 20, hold_seconds=0.01)
    reader = flights.join_or_begin(KEY, upstream, holder=TOKEN, on_abandoned=hold)
    reader.close()
    assert reader.flight.wait_until_over(20), "the hold never ends"
    assert flights.adopt(KEY, TOKEN) is None
    assert flights.figures() == FlightFigures(0, 0, 0)
    assert not flights._held


def test_who_joins_a_held_flight_has_it_for_good(flights: Flights, upstream: Upstream) -> None:
    reader = flights.join_or_begin(KEY, upstream, holder=TOKEN, on_abandoned=hold)
    reader.close()
    joined = flights.join_or_begin(KEY, upstream)
    assert joined.flight is reader.flight
    assert flights.adopt(KEY, TOKEN) is None
    upstream.end(b"a")
    assert body(joined) == b"a"
    joined.close()


def test_a_hold_that_begins_again_lasts_as_long_again(flights: Flights, upstream: Upstream) -> None:
    reader = flights.join_or_begin(KEY, upstream, holder=TOKEN, on_abandoned=hold)
    reader.close()
    (timer,) = flights._held._flights[KEY, TOKEN].values()
    joined = flights.join_or_begin(KEY, upstream)
    joined.close()
    (again,) = flights._held._flights[KEY, TOKEN].values()
    assert again is not timer
    assert not timer.active
    retry = flights.adopt(KEY, TOKEN)
    assert retry is not None
    retry.close()


def test_without_a_holder_nothing_is_held(flights: Flights, upstream: Upstream) -> None:
    reader = flights.join_or_begin(KEY, upstream, on_abandoned=hold)
    reader.close()
    assert reader.flight.wait_until_over(20)
    assert not flights._held


@pytest.mark.parametrize("choice", list(Abandoned))
def test_a_stop_ends_all_flights_and_each_has_its_end(
    upstream: Upstream, choice: Abandoned
) -> None:
    flights = Flights(entry_bytes=1 << 20)
    ends: list[bool] = []
    options: dict[str, Any] = {
        "holder": TOKEN,
        "on_end": [lambda flight: ends.append(flight.complete)],
        "on_abandoned": lambda _: choice,
    }
    left = flights.join_or_begin(KEY, upstream, **options)
    left.close()
    read = flights.join_or_begin(OTHER, upstream, **options)
    job = gevent.spawn(read.head)
    settle()
    flights.stop(ProxyError(code="draining", retry_after=1), seconds=20)
    job.join(20)
    assert isinstance(job.exception, ProxyError)
    assert job.exception.code == "draining"
    assert ends == [False, False]
    read.close()
    late = flights.join_or_begin(KEY, upstream, **options)
    late.close()
    assert late.flight.wait_until_over(20), "nothing goes on behind a stop"
    assert flights.figures() == FlightFigures(0, 0, 0)


def test_a_flight_that_is_too_large_leaves_no_trace(upstream: Upstream) -> None:
    """Neither in the tables nor in the memory of the worker (claude-code-hub#1453)."""
    flights = Flights(entry_bytes=1000)
    reader = flights.join_or_begin(KEY, upstream, holder=TOKEN, on_abandoned=hold)
    upstream.go.set()
    settle()
    (source,) = upstream.sources
    for _ in range(30):
        source.put(b"x" * 100)
        assert reader.read() == b"x" * 100
    assert flights.join(KEY) is None
    other = flights.join_or_begin(KEY, upstream)
    assert other.owns
    reader.close()
    assert flights.adopt(KEY, TOKEN) is None
    assert reader.flight.wait_until_over(20)
    other.close()
    assert other.flight.wait_until_over(20)
    assert flights.figures() == FlightFigures(0, 0, 0)
    assert not flights._shared
    assert not flights._held
