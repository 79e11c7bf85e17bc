"""Flights of the workers of one node (``proxy/cache/flight_claims.py``): here both workers are in
one process, with a table and a socket each."""

import gc
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from proxy.cache import flight_claims
from proxy.cache.fetched import Fetched
from proxy.cache.flight import Abandoned, Flight, FlightReader
from proxy.cache.flight_claims import FlightElsewhere, NodeClaim, NodeClaims
from proxy.cache.flights import FlightFigures, Flights
from proxy.cache.key import CacheKey
from proxy.core.errors import ConnectFailed, UpstreamError
from tests.support.clock import Clock
from tests.support.scripted_source import END, ScriptedSource, body, fetched, served
from tests.support.wait import wait_until

KEY = CacheKey("project-1", b"k" * 32)
OTHER = CacheKey("project-1", b"o" * 32)


class Upstream:
    """Counts the calls of all workers."""

    def __init__(self) -> None:
        self.source = ScriptedSource()
        self.calls = 0
        self.go = Event()
        self.shareable = True
        self.error: Exception | None = None

    def __call__(self) -> Fetched:
        self.calls += 1
        self.go.wait()
        if self.error is not None:
            raise self.error
        return fetched(self.source, shareable=self.shareable)


class Node:
    """The workers of a node."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self.claims: list[NodeClaims] = []
        self.workers: list[Flights] = []

    def worker(self, **options: Any) -> Flights:
        claims = NodeClaims(self.directory, clock=self.clock)
        self.claims.append(claims)
        flights = Flights(entry_bytes=1 << 20, claims=[claims], **options)
        self.workers.append(flights)
        return flights

    def close(self) -> None:
        for flights in self.workers:
            flights.stop(seconds=20)
            assert flights.figures() == FlightFigures(0, 0, 0)
            assert not flights._shared


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Iterator[Node]:
    node = Node(tmp_path / "run", clock)
    yield node
    node.close()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


def cost(flight: Flight) -> None:
    flight.cost = (9, 12, "m")


def test_one_call_for_the_requests_of_all_workers(node: Node, upstream: Upstream) -> None:
    first, second, third = node.worker(), node.worker(), node.worker()
    owner = first.join_or_begin(KEY, upstream, on_end=[cost])
    followers = [
        flights.join_or_begin(KEY, upstream) for flights in (second, third) for _ in range(100)
    ]
    assert owner.owns
    assert not any(reader.owns for reader in followers)
    wait_until(lambda: owner.flight.readers == 3)
    upstream.go.set()
    upstream.source.put(b"a", b"b", END)
    jobs = [gevent.spawn(body, reader) for reader in (owner, *followers)]
    gevent.joinall(jobs, timeout=20)
    assert [job.value for job in jobs] == [b"ab"] * 201
    assert upstream.calls == 1
    for reader in (owner, *followers):
        reader.close()
        assert reader.flight.wait_until_over(20)
        assert reader.flight.cost == (9, 12, "m")


def test_a_request_joins_elsewhere_without_beginning(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(), node.worker()
    assert second.join(KEY) is None
    owner = first.join_or_begin(KEY, upstream)
    joined = second.join(KEY)
    assert joined is not None
    assert not joined.owns
    again = second.join(KEY)
    assert again is not None
    assert again.flight is joined.flight
    assert second.join(OTHER) is None
    for reader in (owner, joined, again):
        reader.close()


def test_who_began_first_is_let_free_after_the_response_is_stored(
    node: Node, upstream: Upstream
) -> None:
    first, second = node.worker(), node.worker()
    stored = Event()
    owner = first.join_or_begin(KEY, upstream, on_end=[lambda _: stored.wait()])
    upstream.go.set()
    upstream.source.put(b"a", END)
    assert body(owner) == b"a"
    late = second.join_or_begin(KEY, upstream)
    assert body(late) == b"a"
    late.close()
    stored.set()
    assert owner.flight.wait_until_over(20)
    assert late.flight.wait_until_over(20)
    assert second.join(KEY) is None
    again = second.join_or_begin(KEY, upstream)
    assert again.owns
    owner.close()
    again.close()


def test_the_owner_leaves_and_a_follower_of_another_worker_reads_on(
    node: Node, upstream: Upstream
) -> None:
    first, second = node.worker(), node.worker()
    asked: list[Flight] = []

    def decide(flight: Flight) -> Abandoned:
        asked.append(flight)
        return Abandoned.CANCEL

    owner = first.join_or_begin(KEY, upstream, on_abandoned=decide)
    follower = second.join_or_begin(KEY, upstream)
    wait_until(lambda: owner.flight.readers == 2)
    owner.close()
    upstream.go.set()
    upstream.source.put(b"a")
    assert follower.read() == b"a"
    assert not asked
    follower.close()
    upstream.source.put(b"b")
    assert owner.flight.wait_until_over(20)
    assert asked == [owner.flight]


def test_a_failure_before_the_head_is_the_failure_of_all_workers(
    node: Node, upstream: Upstream
) -> None:
    first, second = node.worker(), node.worker()
    owner = first.join_or_begin(KEY, upstream)
    follower = second.join_or_begin(KEY, upstream)
    wait_until(lambda: owner.flight.readers == 2)
    upstream.error = ConnectFailed("no way")
    upstream.go.set()
    for reader in (owner, follower):
        with pytest.raises(UpstreamError, match="no way"):
            reader.head()
        reader.close()
    assert upstream.calls == 1


def test_a_private_response_lets_the_workers_go_on_at_once(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(), node.worker()
    upstream.shareable = False
    owner = first.join_or_begin(KEY, upstream)
    jobs = [gevent.spawn(second.join_or_begin, KEY, upstream) for _ in range(50)]
    gevent.joinall(jobs, timeout=20)
    followers = [job.value for job in jobs]
    wait_until(lambda: owner.flight.readers == 2)
    upstream.go.set()
    assert [reader.head() for reader in followers] == [None] * 50
    assert second.is_private(KEY)
    again = [second.join_or_begin(KEY, upstream) for _ in range(50)]
    assert all(reader.owns for reader in again)
    assert owner.head() is not None
    third = node.worker()
    assert third.join(KEY) is None, "the claim is free, though the response goes on"
    for reader in (owner, *followers, *again):
        reader.close()


def test_the_claim_of_a_worker_that_has_ended_is_free_at_once(
    node: Node, upstream: Upstream
) -> None:
    """Of those that wait, one begins and the others follow it."""
    first, second, third = node.worker(), node.worker(), node.worker()
    owner = first.join_or_begin(KEY, Upstream())
    claims = node.claims[0]
    # As a kill does it: nobody listens any more, and nothing was released.
    assert claims._server is not None
    assert claims._server._server is not None
    claims._server._server.stop(timeout=0)
    claims._claims.clear()
    jobs = [
        gevent.spawn(served, flights, KEY, upstream)
        for flights in (second, third)
        for _ in range(20)
    ]
    wait_until(lambda: upstream.calls == 1)
    # The 20 of each worker, and the other worker at the socket of the new owner.
    wait_until(lambda: second.figures().readers + third.figures().readers == 41)
    upstream.go.set()
    upstream.source.put(b"a", END)
    gevent.joinall(jobs, timeout=20)
    assert [job.value for job in jobs] == [b"a"] * 40
    assert upstream.calls == 1
    owner.close()


def test_the_claim_of_a_worker_that_has_stopped_ends_with_its_lease(
    node: Node, upstream: Upstream, clock: Clock
) -> None:
    first, second = node.worker(), node.worker()
    owner = first.join_or_begin(KEY, upstream)
    clock.now += 29
    assert isinstance(node.claims[1].find(KEY), FlightElsewhere)
    clock.now += 2
    assert node.claims[1].find(KEY) is None
    taken = node.claims[1].take(KEY)
    assert isinstance(taken, NodeClaim)
    owner.close()
    assert owner.flight.wait_until_over(20)
    assert node.claims[0].find(KEY) is not None, "the late release freed the newer claim"
    taken.release()
    taken.release()
    assert first.join(KEY) is second.join(KEY) is None


def test_leases_are_renewed_while_there_are_claims(tmp_path: Path, clock: Clock) -> None:
    claims = NodeClaims(tmp_path, lease_seconds=0.03, clock=clock)
    taken = claims.take(KEY)
    assert isinstance(taken, NodeClaim)
    at = claims._row(claims._hash(KEY))
    assert at is not None
    for _ in range(3):
        clock.now += 0.01
        wait_until(lambda: claims._table.doubles[at + 3] == clock.now + 0.03)
    taken.release()
    assert claims._row(claims._hash(KEY)) is None
    wait_until(lambda: not claims._renewal.started)
    claims.close()


def test_a_lease_of_before_the_machines_restart_does_not_hold(
    node: Node, upstream: Upstream, clock: Clock
) -> None:
    first, second = node.worker(), node.worker()
    owner = first.join_or_begin(KEY, upstream)
    clock.now = 5
    assert second.join(KEY) is None
    owner.close()


def test_workers_without_shared_requests_open_nothing(node: Node, upstream: Upstream) -> None:
    flights = node.worker()
    reader = flights.join_or_begin(KEY, upstream, shared=False)
    assert not node.directory.exists()
    assert not node.claims[0]._renewal.started
    reader.close()


def test_the_files_are_for_their_owner_alone_and_sockets_of_the_dead_are_removed(
    node: Node, upstream: Upstream
) -> None:
    node.directory.mkdir(mode=0o700)
    left = node.directory / "flights-00000000000000aa.sock"
    with gevent.socket.socket(gevent.socket.AF_UNIX) as dead:
        dead.bind(str(left))
    first, second = node.worker(), node.worker()
    owners = [
        flights.join_or_begin(key, upstream) for flights, key in ((first, KEY), (second, OTHER))
    ]
    sockets = sorted(node.directory.glob("*.sock"))
    assert sockets == sorted(claims.socket_of(claims._worker) for claims in node.claims), (
        "one of the dead is left, or one of the living is gone"
    )
    modes = {stat.S_IMODE(path.stat().st_mode) for path in node.directory.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(node.directory.stat().st_mode) == 0o700
    for reader in owners:
        reader.close()
    node.close()
    assert [path.name for path in node.directory.iterdir()] == ["flights-1"]


def test_where_there_can_be_no_table_each_worker_asks_for_itself(
    tmp_path: Path, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").write_text("a file where a directory should be")
    flights = Flights(entry_bytes=1 << 20, claims=[NodeClaims(tmp_path / "run")])
    assert flights.join(KEY) is None
    reader = flights.join_or_begin(KEY, upstream)
    assert reader.owns
    upstream.go.set()
    upstream.source.put(b"a", END)
    assert body(reader) == b"a"
    reader.close()
    flights.stop(seconds=20)
    assert caplog.text.count("cannot be shared between the workers of this node") == 1


def test_a_full_table_claims_nothing(
    node: Node, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flight_claims, "_WINDOW", 0)
    first, second = node.worker(), node.worker()
    readers = [flights.join_or_begin(KEY, upstream) for flights in (first, second)]
    assert all(reader.owns for reader in readers)
    for reader in readers:
        reader.close()


def test_what_is_closed_claims_nothing_and_stays_closed(node: Node, upstream: Upstream) -> None:
    flights = node.worker()
    owner = flights.join_or_begin(KEY, upstream)
    claims = node.claims[0]
    claims.close()
    claims.close()
    assert claims.take(KEY) is claims.find(KEY) is None
    owner.close()
    assert owner.flight.wait_until_over(20)
    assert claims._table.descriptor == -1
    assert not list(node.directory.glob("*.sock"))


def test_a_claim_without_a_flight_is_taken_over(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(), node.worker()
    assert isinstance(node.claims[0].take(KEY), NodeClaim)
    assert isinstance(node.claims[0].take(KEY), NodeClaim), "its own is no hindrance"
    job = gevent.spawn(served, second, KEY, upstream)
    upstream.go.set()
    upstream.source.put(b"a", END)
    assert job.get(timeout=20) == b"a"
    assert upstream.calls == 1
    assert first.join(KEY) is None


def hold(_: Flight) -> Abandoned:
    return Abandoned.HOLD


def held(flights: Flights, upstream: Upstream, token: str = "token-1") -> Flight:
    """A flight whose client has left, that the other workers can find."""
    reader = flights.join_or_begin(KEY, upstream, shared=False, holder=token, on_abandoned=hold)
    reader.close()
    wait_until(lambda: all(claims for _, claims in flights._held._announced.values()))
    return reader.flight


def test_a_retry_that_comes_to_another_worker_takes_over_what_its_client_left(
    node: Node, upstream: Upstream
) -> None:
    first, second, third = node.worker(), node.worker(), node.worker()
    flight = held(first, upstream)
    assert second.adopt(OTHER, "token-1") is None
    assert second.adopt(KEY, "token-2") is None
    assert second.join(KEY) is None, "another client's request does not find it"
    retry = second.adopt(KEY, "token-1")
    assert retry is not None
    upstream.go.set()
    upstream.source.put(b"a", b"b", END)
    assert retry.head() is not None
    assert body(retry) == b"ab"
    retry.close()
    assert flight.wait_until_over(20)
    assert flight.adopted
    assert upstream.calls == 1
    again = third.adopt(KEY, "token-1")
    assert again is None or again.head() is None, "once"
    wait_until(lambda: third.adopt(KEY, "token-1") is None)


def test_a_retry_gets_a_response_that_others_must_not_have(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(), node.worker()
    upstream.shareable = False
    held(first, upstream)
    retry = second.adopt(KEY, "token-1")
    assert retry is not None
    wait_until(lambda: first.figures().readers == 1)
    upstream.go.set()
    upstream.source.put(b"a", END)
    assert retry.head() is not None
    assert body(retry) == b"a"
    retry.close()


def test_a_retry_that_leaves_too_ends_the_call(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(), node.worker()
    flight = held(first, upstream)
    retry = second.adopt(KEY, "token-1")
    assert retry is not None
    wait_until(lambda: flight.adopted)
    retry.close()
    assert flight.wait_until_over(20), "it is held only once"
    assert not flight.complete


def test_a_hold_that_ends_is_found_by_nobody(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(hold_seconds=0.01), node.worker()
    reader = first.join_or_begin(KEY, upstream, shared=False, holder="t", on_abandoned=hold)
    reader.close()
    assert reader.flight.wait_until_over(20)
    wait_until(lambda: not node.claims[0]._claims)
    assert second.adopt(KEY, "t") is None
    assert not first._held._announced


def test_a_hold_that_is_announced_too_late_claims_nothing(
    node: Node, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = node.worker()
    claims, go = node.claims[0], Event()
    take = claims.take

    def take_late(key: CacheKey) -> Any:
        go.wait()
        return take(key)

    monkeypatch.setattr(claims, "take", take_late)
    reader = first.join_or_begin(KEY, upstream, shared=False, holder="t", on_abandoned=hold)
    reader.close()
    retry = first.adopt(KEY, "t")
    assert retry is not None
    greenlets = [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet)]
    (announcing,) = [one for one in greenlets if "_announce" in repr(one) and not one.dead]
    go.set()
    announcing.join(20)
    assert announcing.dead
    assert not claims._claims
    retry.close()


def test_a_flight_that_begins_here_while_others_are_asked_is_joined(
    node: Node, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = node.worker(), node.worker()
    owner = first.join_or_begin(KEY, upstream)
    find = node.claims[1].find
    begun: list[FlightReader] = []

    def find_late(key: CacheKey) -> Any:
        found = find(key)
        begun.append(second.join_or_begin(key, upstream))
        return found

    monkeypatch.setattr(node.claims[1], "find", find_late)
    joined = second.join(KEY)
    assert joined is not None
    assert joined.flight is begun[0].flight
    for reader in (owner, joined, *begun):
        reader.close()


def test_several_flights_that_are_held_are_announced_once(node: Node, upstream: Upstream) -> None:
    first, second = node.worker(), node.worker()
    flights = [held(first, upstream), held(first, upstream)]
    assert len(node.claims[0]._claims) == 1
    retries = [second.adopt(KEY, "token-1"), second.adopt(KEY, "token-1")]
    wait_until(lambda: all(flight.adopted for flight in flights))
    wait_until(lambda: not node.claims[0]._claims)
    for retry in retries:
        assert retry is not None
        retry.close()


class Interrupted(gevent.GreenletExit):
    pass


def test_a_request_that_is_interrupted_while_it_claims_holds_nobody_up(
    node: Node, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    flights = node.worker()
    claiming = Event()

    def take(_: CacheKey) -> None:
        if not claiming.is_set():
            claiming.set()
            Event().wait()

    monkeypatch.setattr(node.claims[0], "take", take)
    job = gevent.spawn(flights.join_or_begin, KEY, upstream)
    assert claiming.wait(20)
    waiting = [gevent.spawn(served, flights, KEY, upstream) for _ in range(5)]
    gevent.sleep(0)
    job.kill(Interrupted)
    upstream.go.set()
    upstream.source.put(b"a", END)
    gevent.joinall(waiting, timeout=20)
    assert [one.value for one in waiting] == [b"a"] * 5
    assert upstream.calls == 1


def test_descriptors_are_given_back(node: Node, upstream: Upstream) -> None:
    """1,000 joins and leaves over the socket leave nothing (resumable-stream#48)."""
    first, second = node.worker(), node.worker()
    owner = first.join_or_begin(KEY, upstream)
    upstream.go.set()
    upstream.source.put(b"a")
    assert owner.read() == b"a"
    before = None
    for number in range(200):
        reader = second.join(KEY)
        assert reader is not None
        if number % 2:
            assert reader.read().startswith(b"a")
        reader.close()
        assert reader.flight.wait_until_over(20)
        if number == 20:
            upstream.source.put(b"b")
            owner.read()
            wait_until(lambda: owner.flight.readers == 1)
            before = len(os.listdir("/proc/self/fd"))
    wait_until(lambda: owner.flight.readers == 1)
    assert before is not None
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    owner.close()
