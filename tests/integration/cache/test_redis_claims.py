"""Claims among nodes, in Redis (``proxy/cache/redis_claims.py``)."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import gevent
import pytest
from gevent.event import Event

from proxy.cache.claims import Claims
from proxy.cache.fetched import Fetched, NoResponse, NotShared
from proxy.cache.flights import FlightFigures, Flights
from proxy.cache.key import CacheKey
from proxy.cache.redis_claims import EntryElsewhere, RedisClaim, RedisClaims, _name
from tests.support.clock import Clock
from tests.support.fault_proxy import Middleman
from tests.support.ports import free_port
from tests.support.scripted_source import END, ScriptedSource, body, fetched
from tests.support.services import RedisServer
from tests.support.wait import wait_until

LEASE = 30_000


class Nodes:
    """The nodes, and the one cache of them all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = Clock()
        self.stored: set[CacheKey] = set()
        self.polls: list[float] = []
        #: Called at each pause of a node that waits, with the number of the pause.
        self.while_waiting: Callable[[int], object] = lambda _: None
        self.made: list[RedisClaims] = []
        self.time_passes = True

    def node(self, url: str | None = None, **more: Any) -> RedisClaims:
        more = {"clock": self.clock, "sleep": self._sleep, **more}
        claims = RedisClaims(url or self.url, self.stored.__contains__, **more)
        self.made.append(claims)
        return claims

    def _sleep(self, seconds: float) -> None:
        self.polls.append(seconds)
        if self.time_passes:
            self.clock.now += seconds
        self.while_waiting(len(self.polls))
        gevent.sleep(0)

    def close(self) -> None:
        for claims in self.made:
            claims.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast a busy machine responds is not what is tested."""
    monkeypatch.setattr("proxy.cache.redis_claims._TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr("proxy.cache.redis_claims._DEADLINE_SECONDS", 60.0)


@pytest.fixture
def key() -> CacheKey:
    return CacheKey(f"project-{uuid4()}", uuid4().bytes * 2)


@pytest.fixture
def nodes(redis_server: RedisServer) -> Iterator[Nodes]:
    nodes = Nodes(redis_server.url)
    yield nodes
    nodes.close()


def test_one_of_the_nodes_claims_the_key(nodes: Nodes, key: CacheKey) -> None:
    first, second = nodes.node(), nodes.node()
    assert second.find(key) is None
    claim = first.take(key)
    assert isinstance(claim, RedisClaim)
    assert isinstance(second.find(key), EntryElsewhere)
    assert isinstance(second.take(key), EntryElsewhere)
    claim.release()
    claim.release()
    assert second.find(key) is None
    assert isinstance(second.take(key), RedisClaim)


def test_a_claim_ends_by_itself_and_is_renewed_until_then(
    nodes: Nodes, key: CacheKey, redis_server: RedisServer
) -> None:
    claims = nodes.node()
    claim = claims.take(key)
    assert isinstance(claim, RedisClaim)
    with redis_server.client() as client:
        assert 0 < client.pttl(_name(key)) <= LEASE
        client.pexpire(_name(key), 15_000)
        claims.renew_all()
        assert 15_000 < client.pttl(_name(key)) <= LEASE
        client.set(_name(key), "another owner's", px=15_000)
        claims.renew_all()
        assert 0 < client.pttl(_name(key)) <= 15_000, "the claim of another owner was renewed"
        claim.release()
        assert client.get(_name(key)) == "another owner's", "a late release is fenced"
        client.delete(_name(key))


def test_a_claim_is_renewed_while_the_flight_lasts(
    nodes: Nodes, key: CacheKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = Event()
    monkeypatch.setattr(RedisClaims, "renew_all", lambda _: renewed.set())
    claims = nodes.node(lease_seconds=0.03)
    claim = RedisClaim(claims, key, "t")
    claims._claims.add(claim)
    claims._renewal.start()
    assert renewed.wait(20)
    claim.release()
    wait_until(lambda: not claims._renewal.started)


def test_the_entry_is_waited_for(nodes: Nodes, key: CacheKey) -> None:
    first, second = nodes.node(), nodes.node()
    assert first.take(key) is not None
    elsewhere = second.take(key)
    assert isinstance(elsewhere, EntryElsewhere)
    nodes.while_waiting = lambda number: number == 7 and nodes.stored.add(key)
    with pytest.raises(NoResponse):
        elsewhere.fetch()
    assert nodes.polls == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_an_owner_that_stores_nothing_is_not_waited_for_in_turn(
    nodes: Nodes, key: CacheKey
) -> None:
    first, second = nodes.node(), nodes.node()
    claim = first.take(key)
    assert isinstance(claim, RedisClaim)
    elsewhere = second.take(key)
    assert isinstance(elsewhere, EntryElsewhere)
    nodes.while_waiting = lambda number: number == 2 and claim.release()
    with pytest.raises(NotShared):
        elsewhere.fetch()


def limit_lease(claims: RedisClaims, seconds: float) -> None:
    """Let a claim look as if it were about to end, for as long as it is there."""
    left = claims._left
    claims._left = lambda key: min(seconds, left(key))  # type: ignore[method-assign]


def test_an_owner_that_died_is_followed_by_one_node(
    nodes: Nodes, key: CacheKey, redis_server: RedisServer
) -> None:
    second, third = nodes.node(), nodes.node()
    with redis_server.client() as client:
        client.set(_name(key), "of the dead", px=LEASE)
        for node in (second, third):
            limit_lease(node, 1.0)
        waiting = [node.take(key) for node in (second, third)]
        nodes.while_waiting = lambda _: client.delete(_name(key))
        for elsewhere in waiting:
            assert isinstance(elsewhere, EntryElsewhere)
            with pytest.raises(NoResponse) as caught:
                elsewhere.fetch()
            assert not isinstance(caught.value, NotShared)
    kinds = {type(node.take(key)) for node in (second, third)}
    assert kinds == {RedisClaim, EntryElsewhere}


@pytest.mark.parametrize(("left", "least"), [(30.0, 20.0), (0.5, 1.0)])
def test_nobody_waits_longer_than_the_lease(
    nodes: Nodes, key: CacheKey, redis_server: RedisServer, left: float, least: float
) -> None:
    first, second = nodes.node(), nodes.node()
    limit_lease(first, left)
    with redis_server.client() as client:
        client.set(_name(key), "somebody's", px=LEASE)
        # It is renewed all the time, since its response takes minutes.
        nodes.while_waiting = lambda _: client.pexpire(_name(key), 2 * LEASE)
        began = nodes.clock.now
        elsewhere = first.take(key)
        assert isinstance(elsewhere, EntryElsewhere)
        with pytest.raises(NoResponse):
            elsewhere.fetch()
        assert least <= nodes.clock.now - began <= max(2.0, left)
        assert first.take(key) is first.find(key) is None, "it does not wait again"
        assert second.find(key) is not None
        nodes.clock.now += 30
        assert isinstance(first.find(key), EntryElsewhere)
        client.delete(_name(key))


def test_keys_that_are_not_heeded_are_bounded(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.redis_claims._MAX_UNHEEDED", 2)
    claims = nodes.node()
    keys = [CacheKey("project-1", bytes([number]) * 32) for number in range(4)]
    for key in keys[:3]:
        claims._unheeded[key] = None
    assert list(claims._unheeded) == keys[1:3]
    nodes.clock.now += 31
    claims._unheeded[keys[3]] = None
    assert list(claims._unheeded) == keys[3:]


def test_a_redis_that_is_away_means_no_sharing_and_no_error(
    nodes: Nodes, key: CacheKey, caplog: pytest.LogCaptureFixture
) -> None:
    claims = nodes.node(f"redis://127.0.0.1:{free_port()}/0")
    assert claims.take(key) is claims.find(key) is None
    assert not claims.works
    assert caplog.text.count("cannot be shared between the nodes") == 1
    nodes.clock.now += 6
    assert claims.works
    assert claims.find(key) is None
    assert caplog.text.count("cannot be shared between the nodes") == 1


def test_a_redis_that_goes_away_ends_the_wait(
    nodes: Nodes, key: CacheKey, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    between = Middleman(redis_server.port)
    try:
        first, second = nodes.node(redis_server.url_at(between.port)), nodes.node()
        claim = second.take(key)
        assert isinstance(claim, RedisClaim)
        elsewhere = first.take(key)
        assert isinstance(elsewhere, EntryElsewhere)
        nodes.while_waiting = lambda _: between.meet(lambda client, _: client.close())
        with pytest.raises(NoResponse):
            elsewhere.fetch()
        assert first.take(key) is None
        between.meet(None)
        nodes.clock.now += 6
        assert isinstance(first.take(key), EntryElsewhere)
        assert "works again" in caplog.text
    finally:
        between.close()


def test_a_redis_that_does_not_respond_is_left_alone_after_one_deadline(
    nodes: Nodes, key: CacheKey, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.cache.redis_claims._DEADLINE_SECONDS", 0.01)
    between = Middleman(redis_server.port)
    try:
        between.meet(lambda *_: gevent.sleep(600))
        claims = nodes.node(redis_server.url_at(between.port))
        for _ in range(50):
            assert claims.take(key) is None
        assert between.calls <= 1
    finally:
        between.close()


def test_a_value_of_another_type_is_no_claim_and_no_error(
    nodes: Nodes, key: CacheKey, redis_server: RedisServer
) -> None:
    claims = nodes.node()
    claim = claims.take(key)
    assert isinstance(claim, RedisClaim)
    with redis_server.client() as client:
        client.delete(_name(key))
        client.rpush(_name(key), "a list")
        claim.release()
        client.delete(_name(key))


def test_what_is_closed_claims_nothing(nodes: Nodes, key: CacheKey) -> None:
    first, second = nodes.node(), nodes.node()
    assert isinstance(first.take(key), RedisClaim)
    first.close()
    first.close()
    assert first.take(key) is first.find(key) is None
    assert second.find(key) is None


class House:
    """Nodes as the gateway uses them: the cache, then the flights, until there is a response."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.calls = 0
        self.source = ScriptedSource()
        self.entry: dict[CacheKey, bytes] = {}
        self.storable = True
        nodes.time_passes = False
        nodes.while_waiting = lambda _: gevent.sleep(0.001)

    def fetch(self) -> Fetched:
        self.calls += 1
        return fetched(self.source)

    def flights(self) -> Flights:
        claims: list[Claims] = [self.nodes.node()]
        return Flights(entry_bytes=1 << 20, claims=claims)

    def serve(self, flights: Flights, key: CacheKey) -> bytes:
        while True:
            if key in self.entry:
                return self.entry[key]
            reader = flights.join_or_begin(key, self.fetch, on_end=[lambda _: self.store(key)])
            try:
                if reader.head() is not None:
                    return body(reader)
            finally:
                reader.close()

    def store(self, key: CacheKey) -> None:
        if self.storable:
            self.entry[key] = b"ab"
            self.nodes.stored.add(key)


def test_one_call_for_the_requests_of_two_nodes(nodes: Nodes, key: CacheKey) -> None:
    house = House(nodes)
    workers = [house.flights(), house.flights()]
    jobs = [gevent.spawn(house.serve, flights, key) for flights in workers for _ in range(20)]
    wait_until(lambda: house.calls == 1 and len(nodes.polls) >= 2)
    house.source.put(b"a", b"b", END)
    gevent.joinall(jobs, timeout=60)
    assert [job.value for job in jobs] == [b"ab"] * 40
    assert house.calls == 1
    for flights in workers:
        flights.stop(seconds=20)
        assert flights.figures() == FlightFigures(0, 0, 0)
