"""One behaviour of the stores of the response cache: memory, the node's file, a real Redis."""

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxy.cache.backends.base import FirstStore, Item, Selection, Store
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.backends.node import NodeStore
from proxy.cache.backends.redis import RedisStore
from proxy.cache.backends.redis_calls import Deadlines
from proxy.cache.key import CacheKey
from tests.support.cached_responses import NOW, cache_key, cached_response
from tests.support.clock import Clock
from tests.support.services import RedisServer

SIZE = 8 * 1024 * 1024
SECRET = bytes(range(32))


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def local_store(kind: str, folder: Path, clock: Clock) -> Store:
    if kind == "memory":
        return MemoryStore(SIZE, clock=clock)
    return NodeStore(folder, SECRET, size=SIZE, clock=clock)


@pytest.fixture(params=["memory", "node", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[Store]:
    if request.param == "redis":
        made: Store = redis_store(request.getfixturevalue("redis_server"), clock)
    else:
        made = local_store(request.param, tmp_path / "cache", clock)
    made.start()
    yield made
    made.close(20)


def redis_store(server: RedisServer, clock: Clock) -> RedisStore:
    with server.client() as client:
        client.flushall()
    return RedisStore(
        server.url, SECRET, max_ttl=3600, deadlines=Deadlines(20, 20, 20), clock=clock
    )


def put(
    store: Store, name: str, body: bytes = b"{}", *, stale: float = 0.0, **facts: object
) -> None:
    response = cached_response(body, **facts)  # type: ignore[arg-type]
    key = cache_key(name, response.scope)
    store.put(Item(key, response, response.expires_at + stale))
    assert store.flush(20)


def test_what_is_put_comes_back(store: Store) -> None:
    assert store.get(cache_key("a")) is None
    put(store, "a", b"first")
    assert store.get(cache_key("a")) == cached_response(b"first").encode()
    assert store.get(cache_key("b")) is None


@pytest.mark.parametrize("size", [0, 1, 2000, 2100, 5000, 70_000, 300_000])
def test_every_size_comes_back(store: Store, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    put(store, "a", body)
    assert store.get(cache_key("a")) == cached_response(body).encode()


def test_an_entry_is_replaced(store: Store) -> None:
    put(store, "a", b"first" * 1000)
    put(store, "a", b"second")
    assert store.get(cache_key("a")) == cached_response(b"second").encode()
    assert store.purge(Selection(scope="project-1")) == {cache_key("a").digest}


def test_a_digest_of_another_scope_is_not_found(store: Store) -> None:
    put(store, "a")
    key = cache_key("a")
    for _ in range(2):
        assert store.get(CacheKey("project-2", key.digest)) is None
        assert store.get(key) is not None


def test_an_expired_entry_is_not_found(store: Store, clock: Clock) -> None:
    put(store, "a", ttl=10, stale=5)
    clock.now += 9
    assert store.get(cache_key("a")) is not None
    clock.now += 2
    assert store.get(cache_key("a")) is None
    assert store.get(cache_key("a"), stale=True) is not None
    clock.now += 5
    assert store.get(cache_key("a"), stale=True) is None


def test_an_entry_is_deleted(store: Store) -> None:
    put(store, "a")
    store.delete(cache_key("a"))
    store.delete(cache_key("b"))
    assert store.flush(20)
    assert store.get(cache_key("a")) is None


HELD = {
    "a": ("p1", "POST", "/v1/chat/completions"),
    "b": ("p1", "GET", "/v1/models"),
    "c": ("p1", "GET", "/v1/models/gpt-5?x=1"),
    "d": ("p1:t1", "GET", "/v1/models"),
    "e": ("p1:t2", "GET", "/v1/models"),
    "f": ("p2", "GET", "/v1/models"),
    "g": ("p", "POST", "/v1/embeddings"),
}


@pytest.mark.parametrize(
    ("selection", "gone"),
    [
        (Selection(), "abcdefg"),
        (Selection(scope="p1"), "abcde"),
        (Selection(scope="p1:t1"), "d"),
        (Selection(scope="p"), "g"),
        (Selection(scope="p3"), ""),
        (Selection(method="POST"), "ag"),
        (Selection(target="/v1/models"), "bdef"),
        (Selection(target="/v1/models/gpt-5"), ""),
        (Selection(prefix="/v1/models"), "bcdef"),
        (Selection(scope="p1", prefix="/v1/models"), "bcde"),
        (Selection(scope="p1", target="/v1/models", method="GET"), "bde"),
        (Selection(scope="p1", target="/v1/models", method="POST"), ""),
        (Selection(name=cache_key("c", "p1").name), "c"),
        (Selection(name=cache_key("c", "p1").name, scope="p2"), ""),
        (Selection(name="0000000000000000"), ""),
    ],
)
def test_a_purge_deletes_what_matches(store: Store, selection: Selection, gone: str) -> None:
    for name, (scope, method, target) in HELD.items():
        put(store, name, scope=scope, method=method, target=target)
    keys = {name: cache_key(name, scope) for name, (scope, _, _) in HELD.items()}
    assert store.purge(selection) == {keys[name].digest for name in gone}
    assert {name for name in HELD if store.get(keys[name]) is None} == set(gone)
    assert store.purge(selection) == set()


def test_a_purge_counts_what_could_still_be_hit(store: Store, clock: Clock) -> None:
    put(store, "a", ttl=10)
    put(store, "b", ttl=20)
    put(store, "c", ttl=10, stale=10)
    clock.now += 15
    gone = {cache_key("b").digest, cache_key("c").digest}
    assert store.purge(Selection(scope="project-1")) == gone


def test_a_target_is_forgotten(store: Store) -> None:
    for name, (scope, method, target) in HELD.items():
        put(store, name, scope=scope, method=method, target=target)
    store.forget("p1", "/v1/models")
    assert store.flush(20)
    left = {name for name, (scope, _, _) in HELD.items() if store.get(cache_key(name, scope))}
    assert left == set("acfg")


def test_a_forgotten_target_keeps_what_a_post_brought(store: Store) -> None:
    put(store, "a")
    store.forget("project-1", "/v1/chat/completions")
    assert store.flush(20)
    assert store.get(cache_key("a")) is not None


def test_a_name_is_claimed_once(store: Store) -> None:
    assert store.claim("n", b"one", 30) is None
    assert store.claim("n", b"two", 30) == b"one"
    assert store.get_record("n") == b"one"
    assert store.claim("m", b"two", 30) is None


@pytest.mark.parametrize("kind", ["memory", "node"])
def test_a_claim_ends_with_its_time(kind: str, tmp_path: Path, clock: Clock) -> None:
    """Redis has a clock of its own, see tests/integration/cache/test_redis_store.py."""
    store = local_store(kind, tmp_path / "cache", clock)
    store.start()
    assert store.claim("n", b"one", 30) is None
    clock.now += 31
    assert store.get_record("n") is None
    assert store.claim("n", b"three", 30) is None
    assert store.get_record("n") == b"three"
    store.close(20)


def test_one_of_many_claims_wins(store: Store) -> None:
    claims = [gevent.spawn(store.claim, "n", b"%d" % number, 30) for number in range(20)]
    gevent.joinall(claims, timeout=30, raise_error=True)
    results = [claim.value for claim in claims]
    assert results.count(None) == 1
    winner = b"%d" % results.index(None)
    assert set(results) == {None, winner}


def test_a_record_is_replaced_by_its_owner_alone(store: Store, clock: Clock) -> None:
    assert not store.put_record("n", b"x", 30, expected=b"one")
    assert store.claim("n", b"one", 30) is None
    assert not store.put_record("n", b"x", 30, expected=b"two")
    assert store.get_record("n") == b"one"
    clock.now += 20
    assert store.put_record("n", b"one", 30, expected=b"one", pinned=True)
    clock.now += 20
    assert store.put_record("n", b"done" * 1000, 30, expected=b"one")
    assert store.get_record("n") == b"done" * 1000
    assert store.put_record("n", b"other", 30)
    assert store.get_record("n") == b"other"


def test_a_record_is_deleted_by_its_owner_alone(store: Store) -> None:
    assert not store.delete_record("n")
    assert store.claim("n", b"one", 30) is None
    assert not store.delete_record("n", expected=b"two")
    assert store.get_record("n") == b"one"
    assert store.delete_record("n", expected=b"one")
    assert store.get_record("n") is None
    assert store.claim("n", b"two", 30) is None
    assert store.delete_record("n")


def test_a_purge_leaves_records(store: Store) -> None:
    assert store.claim("n", b"one", 30) is None
    assert store.purge(Selection()) == set()
    assert store.get_record("n") == b"one"


def test_figures_show_no_content(store: Store) -> None:
    put(
        store, "a", b"canary-in-the-body", target="/v1/models?key=canary-in-the-query", method="GET"
    )
    assert store.claim("canary-in-the-name", b"canary-in-the-value", 30) is None
    assert store.get(cache_key("a")) is not None
    assert store.flush(20)
    figures = store.figures()
    assert "canary" not in repr(figures)
    assert figures.items == 1


@pytest.mark.parametrize("store", ["memory", "node"], indirect=True)
def test_the_size_is_there_without_the_figures(store: FirstStore) -> None:
    before = store.size()
    assert before.items == 0
    put(store, "a", b"x" * 1000)
    assert store.flush(20)
    after = store.size()
    assert after == (1, store.figures().bytes, store.figures().limit)
    assert after.bytes > before.bytes
