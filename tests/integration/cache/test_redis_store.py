"""What a Redis can do to the second tier of the cache (``proxy/cache/backends/redis.py``).

Whatever it does is a miss, and is counted.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from redis.crc import key_slot

from proxy.cache.backends.base import (
    Item,
    PurgeIncomplete,
    RecordsFull,
    RecordsUnavailable,
    Selection,
)
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.backends.redis import RedisStore
from proxy.cache.backends.redis_calls import Deadlines
from proxy.cache.key import CacheKey
from proxy.cache.response_cache import ResponseCache
from tests.support.cached_responses import cache_key, cached_response
from tests.support.fault_proxy import Middleman, passing, refused, silent
from tests.support.ports import free_port
from tests.support.services import RedisServer
from tests.support.wait import wait_until

#: Starts a Redis of its own.
pytestmark = pytest.mark.services

SECRET = bytes(range(32))
PATIENT = Deadlines(lookup=20, record=20, write=20)
HASTY = Deadlines(lookup=0.05, record=0.05, write=0.05)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One whose configuration may be changed."""
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


Maker = Callable[..., RedisStore]


@pytest.fixture
def make(server: RedisServer) -> Iterator[Maker]:
    made: list[RedisStore] = []

    def make(
        url: str = "", *, secret: bytes = SECRET, deadlines: Deadlines = PATIENT
    ) -> RedisStore:
        store = RedisStore(url or server.url, secret, max_ttl=3600, deadlines=deadlines)
        made.append(store)
        store.start()
        return store

    yield make
    for store in made:
        store.close(1)


@pytest.fixture
def store(make: Maker) -> RedisStore:
    return make()


@pytest.fixture
def middleman(server: RedisServer) -> Iterator[Middleman]:
    middleman = Middleman(server.port)
    yield middleman
    middleman.close()


def put(store: RedisStore, name: str, body: bytes = b"{}", **facts: Any) -> CacheKey:
    response = cached_response(body, **{"stored_at": time.time()} | facts)
    key = cache_key(name, response.scope)
    store.put(Item(key, response, response.expires_at))
    assert store.flush(20)
    return key


def raw(server: RedisServer) -> Any:
    """A client for bytes."""
    client = server.client()
    client.connection_pool.connection_kwargs["decode_responses"] = False
    return client


# What lies there.


def test_the_layout(server: RedisServer, store: RedisStore) -> None:
    key = put(store, "a", scope="project-1:token-1", method="GET", target="/v1/models?a=b c")
    name = f"op:c:{{project-1:token-1}}:{key.digest.hex()}"
    index = "op:ci:{project-1:token-1}"
    with server.client() as client:
        assert set(client.keys()) == {name, index, "op:cs"}
        assert client.zrange(index, 0, -1) == [f"GET /v1/models?a=b c {key.digest.hex()}"]
        assert client.zrange("op:cs", 0, -1) == ["project-1:token-1"]
        lives = [client.pttl(each) for each in (name, index, "op:cs")]
    assert 200_000 < lives[0] <= 300_000
    assert all(3_500_000 < each <= 3_600_000 for each in lives[1:])
    assert len({key_slot(each.encode()) for each in (name, index)}) == 1


def test_nothing_of_a_response_is_legible(server: RedisServer, store: RedisStore) -> None:
    put(store, "a", b"canary-body " * 500, headers=[("x", "canary-header")], model="canary-model")
    put(store, "b", b"canary-body")
    assert store.claim("canary-name", b"canary-value", 60) is None
    client = raw(server)
    held = [client.get(name) for name in client.scan_iter(_type="string")]
    assert len(held) == 3
    assert all(b"canary" not in value for value in held)
    assert not list(client.scan_iter(match="*canary*"))


@pytest.mark.parametrize(
    ("body", "headers", "smaller"),
    [
        (b"a word and " * 1000, [], True),
        (b"a word and " * 100, [], False),
        (b"a word and " * 1000, [("Content-Encoding", "gzip")], False),
        (b"a word and " * 40_000, [], True),
    ],
)
def test_large_bodies_are_deflated(
    server: RedisServer,
    store: RedisStore,
    body: bytes,
    headers: list[tuple[str, str]],
    smaller: bool,
) -> None:
    key = put(store, "a", body, headers=headers)
    with server.client() as client:
        length = client.strlen(f"op:c:{{project-1}}:{key.digest.hex()}")
    assert (length < len(body) / 2) == smaller
    found = store.get(key)
    assert found is not None
    assert body in found


def test_megabytes_come_back(store: RedisStore) -> None:
    for body in (b"a word and " * 400_000, random.Random(1).randbytes(4_000_000)):
        key = put(store, "a", body)
        found = store.get(key)
        assert found is not None
        assert found.endswith(body)


def test_a_look_up_is_one_command_and_nothing_is_searched_for(
    server: RedisServer, store: RedisStore
) -> None:
    key = put(store, "a")
    with server.client() as client:
        client.config_resetstat()
        assert store.get(key) is not None
        assert store.purge(Selection(prefix="/v1/")) == {key.digest}
        for number in range(70):
            put(store, str(number))
        store.figures()
        calls: Any = client.info("commandstats")
    assert calls["cmdstat_get"]["calls"] == 1
    assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_zscan"} & set(calls)


def test_the_index_is_trimmed(server: RedisServer, store: RedisStore) -> None:
    with server.client() as client:
        client.zadd("op:ci:{project-1}", {"GET /v1/old 00": 1.0})
        client.zadd("op:cs", {"old scope": 1.0})
        for number in range(64):
            put(store, str(number))
        assert client.zscore("op:ci:{project-1}", "GET /v1/old 00") is None
        assert client.zrange("op:cs", 0, -1) == ["project-1"]
        assert client.zcard("op:ci:{project-1}") == 64


def test_a_purge_of_more_than_a_page(store: RedisStore) -> None:
    for number in range(1200):
        response = cached_response(stored_at=time.time())
        store.put(Item(cache_key(str(number)), response, response.expires_at))
        if number % 400 == 399:
            assert store.flush(20)
    assert store.figures().items == 1200
    assert len(store.purge(Selection(scope="project-1"))) == 1200
    assert store.figures().items == 0


def test_records_end_with_their_time(server: RedisServer, store: RedisStore) -> None:
    assert store.claim("n", b"one", 30) is None
    with server.client() as client:
        (name,) = client.keys("op:r:*")
        assert 29_000 < client.pttl(name) <= 30_000
        assert store.put_record("n", b"one", 60, expected=b"one")
        assert 59_000 < client.pttl(name) <= 60_000
        client.delete(name)
    assert store.get_record("n") is None
    assert not store.put_record("n", b"two", 30, expected=b"one")


def test_a_forgotten_script_is_sent_again(server: RedisServer, store: RedisStore) -> None:
    assert store.claim("n", b"one", 30) is None
    with server.client() as client:
        client.script_flush()
    assert store.claim("n", b"two", 30) == b"one"


def test_two_nodes_share_it(make: Maker) -> None:
    one, two, stranger = make(), make(), make(secret=bytes(32))
    key = put(one, "a")
    assert two.get(key) is not None
    assert one.claim("n", b"one", 30) is None
    assert two.claim("n", b"two", 30) == b"one"
    assert two.purge(Selection(scope="project-1")) == {key.digest}
    assert one.get(key) is None
    put(one, "a")
    assert stranger.get(key) is None
    assert stranger.counts.errors == {"unreadable": 1}


# What cannot be trusted.


def name_of(key: CacheKey) -> str:
    return f"op:c:{{{key.scope}}}:{key.digest.hex()}"


def test_swapped_values_are_misses(server: RedisServer, store: RedisStore) -> None:
    a, b = put(store, "a", b"one"), put(store, "b", b"two")
    client = raw(server)
    one, two = client.get(name_of(a)), client.get(name_of(b))
    client.set(name_of(a), two)
    client.set(name_of(b), one)
    assert store.get(a) is store.get(b) is None
    assert store.counts.errors == {"unreadable": 2}


def test_a_value_of_another_scope_is_a_miss(server: RedisServer, store: RedisStore) -> None:
    key = put(store, "a")
    other = CacheKey("project-2", key.digest)
    client = raw(server)
    client.copy(name_of(key), name_of(other))
    assert store.get(other) is None
    assert store.counts.errors == {"unreadable": 1}


def test_every_changed_byte_is_a_miss(server: RedisServer, store: RedisStore) -> None:
    """Also one that only prolongs its life."""
    key = put(store, "a", b"x" * 3000)
    client = raw(server)
    value = client.get(name_of(key))
    for at in [*range(60), len(value) - 1]:
        changed = bytearray(value)
        changed[at] ^= 1
        client.set(name_of(key), bytes(changed))
        assert store.get(key, stale=True) is None
    client.set(name_of(key), value)
    assert store.get(key) is not None


@pytest.mark.parametrize("value", [b"", b"x", b"OPC1", b"OPC1" + b"\0" * 17, b"\xff" * 200])
def test_garbage_is_a_miss(server: RedisServer, store: RedisStore, value: bytes) -> None:
    key = cache_key("a")
    raw(server).set(name_of(key), value)
    assert store.get(key) is None
    with raw(server) as client:
        client.set(store._record_name("n"), value)
    for call in (lambda: store.claim("n", b"one", 30), lambda: store.get_record("n")):
        with pytest.raises(RecordsUnavailable):
            call()


def test_another_kind_of_value_is_a_miss(server: RedisServer, store: RedisStore) -> None:
    key = cache_key("a")
    with server.client() as client:
        client.lpush(name_of(key), "x")
        client.lpush("op:ci:{project-2}", "x")
        client.lpush(store._record_name("n"), "x")
    assert store.get(key) is None
    assert store.counts.errors == {"wrong_type": 1}
    # What cannot be indexed is not kept.
    assert store.get(put(store, "b", scope="project-2")) is None
    assert store.counts.rejected == {"shared_wrong_type": 1}
    with pytest.raises(RecordsUnavailable):
        store.claim("n", b"one", 30)
    with pytest.raises(PurgeIncomplete):
        store.purge(Selection(scope="project-2"))
    # It responds, so it is asked on.
    assert store.get(put(store, "c")) is not None


def test_odd_members_of_an_index_are_passed_over(server: RedisServer, store: RedisStore) -> None:
    key = put(store, "a")
    with server.client() as client:
        client.zadd("op:ci:{project-1}", {"": 9e12, "GET": 9e12, "GET /v1/x zz": 9e12})
    assert store.purge(Selection(scope="project-1")) == {key.digest}


def test_a_full_redis(server: RedisServer, store: RedisStore) -> None:
    key = put(store, "before")
    with server.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        try:
            assert store.get(put(store, "a")) is None
            assert store.counts.rejected == {"shared_full": 1}
            with pytest.raises(RecordsFull):
                store.claim("n", b"one", 30)
            assert store.get(key) is not None
        finally:
            client.config_set("maxmemory", "0")
    assert store.get(put(store, "a")) is not None
    assert store.claim("n", b"one", 30) is None


# What does not respond.


def test_a_redis_that_refuses(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    store = make(f"redis://127.0.0.1:{free_port()}/0")
    key = cache_key("a")
    for _ in range(5):
        assert store.get(key) is None
    assert store.counts.errors["unavailable"] >= 1
    assert sum(store.counts.errors.values()) == 5
    put(store, "a")
    store.forget("project-1", "/v1/models")
    store.delete(key)
    assert store.flush(20)
    assert sum(store.counts.rejected.values()) == 3
    for call in (
        lambda: store.claim("n", b"one", 30),
        lambda: store.get_record("n"),
        lambda: store.put_record("n", b"one", 30),
        lambda: store.delete_record("n"),
    ):
        with pytest.raises(RecordsUnavailable, match="Nothing was sent"):
            call()
    with pytest.raises(PurgeIncomplete, match="Redis"):
        store.purge(Selection())
    assert store.figures().items == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "its Redis fails, and is not asked meanwhile" in caplog.text


def test_a_silent_redis_costs_one_look_up(
    server: RedisServer, middleman: Middleman, make: Maker
) -> None:
    """The others do not even ask, until a pause is over."""
    middleman.trouble = silent
    store = make(server.url_at(middleman.port), deadlines=HASTY)
    assert store.get(cache_key("a")) is None
    began = time.monotonic()
    calls = 0
    while not store.counts.errors["paused"]:  # as long as a pause is not shorter than a turn
        store.get(cache_key("a"))
        calls += 1
        assert calls < 100
    assert time.monotonic() - began < 20
    assert middleman.calls <= 1 + calls


def test_it_is_asked_again(server: RedisServer, middleman: Middleman, make: Maker) -> None:
    store = make(server.url_at(middleman.port))
    key = put(store, "a")
    middleman.meet(refused)
    assert store.get(key) is None
    middleman.meet(None)
    wait_until(lambda: store.get(key) is not None)
    assert set(store.counts.errors) <= {"unavailable", "paused"}
    assert store.get(put(store, "b")) is not None


def test_a_response_that_comes_too_late_is_no_other_ones(
    server: RedisServer, middleman: Middleman, make: Maker
) -> None:
    """The connection of a call that was given up is not used again."""

    def late(client: Any, target: Any) -> None:
        gevent.sleep(0.3)
        passing(client, target)

    store = make(server.url_at(middleman.port), deadlines=HASTY)
    direct = make()
    one, two = put(direct, "one", b"one"), put(direct, "two", b"two")
    middleman.trouble = late
    for _ in range(3):
        for key, body in ((one, b"one"), (two, b"two")):
            found = store.get(key)
            assert found is None or found.endswith(body)
            gevent.sleep(0.25)
    assert store.counts.errors["unavailable"] >= 1


def test_a_client_that_leaves_breaks_nothing(
    server: RedisServer, middleman: Middleman, make: Maker
) -> None:
    store = make(server.url_at(middleman.port))
    key = put(store, "a")
    middleman.meet(refused)
    assert store.get(key) is None
    middleman.meet(silent)
    before = middleman.hindered
    wait_until(lambda: not store._call.pauses)
    # It tries again, and would say whether Redis works.
    waiting = gevent.spawn(store.get, key)
    wait_until(lambda: middleman.hindered > before)
    waiting.kill()
    middleman.meet(None)
    wait_until(lambda: store.get(key) is not None)


def test_a_failing_second_tier_is_a_miss_of_the_cache(make: Maker) -> None:
    shared = make(f"redis://127.0.0.1:{free_port()}/0")
    cache = ResponseCache(MemoryStore(1_000_000), shared, max_entry=100_000)
    key = cache_key("a")
    assert cache.get(key) is None
    response = cached_response(stored_at=time.time())
    cache.put(key, response)
    assert cache.flush(20)
    assert cache.get(key) is not None
    # The look-up, the write, and the figures themselves.
    assert sum(cache.figures().errors.values()) == 3
    with pytest.raises(RecordsUnavailable):
        cache.records.claim("n", b"one", 30)
    with pytest.raises(PurgeIncomplete):
        cache.purge(Selection(scope="project-1"))
    assert cache.get(key) is None, "the first tier has been purged"


def test_waiting_writes_are_bounded(make: Maker) -> None:
    store = make()
    response = cached_response(b"x" * 100_000, stored_at=time.time())
    for number in range(600):  # without a switch of greenlets
        store.put(Item(cache_key(str(number)), response, response.expires_at))
    dropped = store.counts.rejected["shared_queue_full"]
    assert 200 < dropped < 600
    assert store.flush(20)
    assert store.figures().items == 600 - dropped
