"""The cache over its stores (``proxy/cache/response_cache.py``)."""

from typing import Any

import pytest

from proxy.cache.backends.base import Item, Selection
from proxy.cache.backends.memory import MemoryStore
from proxy.cache.key import CacheKey
from proxy.cache.response_cache import ResponseCache
from tests.support.cached_responses import NOW, cache_key, cached_response
from tests.support.clock import Clock

KEY = cache_key("a")


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(1_000_000, clock=clock)


@pytest.fixture
def shared(clock: Clock) -> MemoryStore:
    return MemoryStore(1_000_000, clock=clock)


@pytest.fixture
def cache(store: MemoryStore, clock: Clock) -> ResponseCache:
    return ResponseCache(store, max_entry=10_000, clock=clock, jitter=lambda: 0.0)


@pytest.fixture
def tiers(store: MemoryStore, shared: MemoryStore, clock: Clock) -> ResponseCache:
    return ResponseCache(store, shared, max_entry=10_000, clock=clock, jitter=lambda: 0.0)


def test_a_response_comes_back(cache: ResponseCache) -> None:
    response = cached_response(b"body", chunk_sizes=(1, 3))
    assert cache.get(KEY) is None
    cache.put(KEY, response)
    assert cache.flush()
    assert cache.get(KEY) == response


def test_expiry_is_jittered_and_stored(store: MemoryStore, clock: Clock) -> None:
    for part in (0.0, 0.5, 1.0):
        cache = ResponseCache(store, max_entry=10_000, clock=clock, jitter=lambda part=part: part)
        cache.put(KEY, cached_response(ttl=100))
        found = cache.get(KEY)
        assert found is not None
        assert found.expires_at == pytest.approx(NOW + 100 - 5 * part)
        assert cache.get(KEY) == found


def test_jitter_differs_and_never_prolongs(store: MemoryStore, clock: Clock) -> None:
    cache = ResponseCache(store, max_entry=10_000, clock=clock)
    ends = set()
    for _ in range(50):
        cache.put(KEY, cached_response(ttl=100))
        found = cache.get(KEY)
        assert found is not None
        ends.add(found.expires_at)
    assert len(ends) > 40
    assert all(NOW + 95 <= end <= NOW + 100 for end in ends)


def test_stale_entries_are_asked_for(store: MemoryStore, clock: Clock) -> None:
    cache = ResponseCache(store, max_entry=10_000, stale=60, clock=clock, jitter=lambda: 0.0)
    cache.put(KEY, cached_response(ttl=100))
    clock.now += 101
    assert cache.get(KEY) is None
    found = cache.get(KEY, allow_stale=True)
    assert found is not None
    assert found.expires_at == NOW + 100
    clock.now += 60
    assert cache.get(KEY, allow_stale=True) is None


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"body": b"x" * 10_000}, "too_large"),
        ({"ttl": 0}, "expired"),
        ({"ttl": -1}, "expired"),
    ],
)
def test_what_is_not_kept_is_counted(
    cache: ResponseCache, facts: dict[str, Any], reason: str
) -> None:
    cache.put(KEY, cached_response(**facts))
    assert cache.get(KEY) is None
    assert cache.figures().node.rejected == {reason: 1}


def test_the_gateway_counts_its_own_reasons(cache: ResponseCache) -> None:
    cache.reject("incomplete")
    cache.reject("incomplete")
    assert cache.figures().node.rejected == {"incomplete": 2}


def test_an_entry_of_another_scope_is_never_returned(
    cache: ResponseCache, store: MemoryStore
) -> None:
    """Not even where a store is wrong about it."""
    other = cached_response(scope="project-2")
    store.put(Item(KEY, other, other.expires_at))
    assert cache.get(KEY) is None
    assert cache.figures().errors == {"wrong_scope": 1}
    assert store.get(KEY) is None


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 100])
def test_an_unreadable_entry_is_a_miss(
    cache: ResponseCache, store: MemoryStore, data: bytes
) -> None:
    item = Item(KEY, cached_response(), NOW + 300)
    item.__dict__["data"] = data
    store.put(item)
    assert cache.get(KEY) is None
    assert cache.figures().errors == {"unreadable": 1}
    assert store.get(KEY) is None


def test_a_store_that_is_late_is_checked(cache: ResponseCache, store: MemoryStore) -> None:
    """An entry whose own time is over is not returned, whatever the store says."""
    item = Item(KEY, cached_response(ttl=300), NOW + 300)
    item.__dict__["data"] = cached_response(ttl=-1).encode()
    store.put(item)
    assert cache.get(KEY) is None


def test_both_tiers_keep_a_response(
    tiers: ResponseCache, store: MemoryStore, shared: MemoryStore
) -> None:
    tiers.put(KEY, cached_response())
    assert store.get(KEY) is not None
    assert shared.get(KEY) is not None


def test_the_second_tier_fills_the_first(
    tiers: ResponseCache, store: MemoryStore, shared: MemoryStore
) -> None:
    response = cached_response()
    shared.put(Item(KEY, response, response.expires_at))
    assert tiers.get(KEY) == response
    assert store.get(KEY) is not None
    assert tiers.get(KEY) == response
    assert tiers.figures().shared is not None
    assert tiers.figures().shared.hits == 1  # type: ignore[union-attr]


def test_a_purge_counts_an_entry_of_both_tiers_once(
    tiers: ResponseCache, store: MemoryStore, shared: MemoryStore
) -> None:
    tiers.put(KEY, cached_response())
    one = cached_response(target="/v1/embeddings")
    shared.put(Item(cache_key("b"), one, one.expires_at))
    assert tiers.purge(Selection(scope="project-1", prefix="/v1/")) == 2
    assert store.get(KEY) is shared.get(KEY) is shared.get(cache_key("b")) is None


def test_a_purge_by_key(cache: ResponseCache) -> None:
    cache.put(KEY, cached_response())
    cache.put(cache_key("b"), cached_response())
    assert cache.purge(Selection(name=KEY.name)) == 1
    assert cache.get(KEY) is None
    assert cache.get(cache_key("b")) is not None


def test_a_target_is_forgotten_for_the_whole_project(cache: ResponseCache) -> None:
    keys = [cache_key("a", "p:t1"), cache_key("a", "p:t2"), cache_key("a", "q")]
    for key in keys:
        cache.put(key, cached_response(scope=key.scope, method="GET", target="/v1/files/1"))
    cache.forget("p:t1", "/v1/files/1")
    assert [cache.get(key) is None for key in keys] == [True, True, False]


def test_records_are_those_of_the_widest_tier(
    tiers: ResponseCache, store: MemoryStore, shared: MemoryStore
) -> None:
    records = tiers.records
    assert records.claim("n", b"one", 30) is None
    assert (store.get_record("n"), shared.get_record("n")) == (None, b"one")
    assert records.claim("n", b"two", 30) == records.get_record("n") == b"one"
    assert records.put_record("n", b"done", 30, expected=b"one")
    assert records.delete_record("n", expected=b"done")
    assert records.get_record("n") is None


def test_size_and_counts_of_this_worker(cache: ResponseCache, store: MemoryStore) -> None:
    cache.put(KEY, cached_response(b"x" * 1000))
    assert cache.size() == store.size()
    assert cache.size().items == 1
    store.counts.evictions["expired"] += 2
    store.counts.rejected["too_large"] += 1
    cache.reject("too_large")
    cache.reject("incomplete")
    counts = cache.counts()
    assert counts.evictions == {"expired": 2}
    assert counts.rejected == {"too_large": 2, "incomplete": 1}


def test_a_worker_counts_for_its_metrics(
    tiers: ResponseCache, store: MemoryStore, shared: MemoryStore
) -> None:
    store.counts.evictions["main"] += 2
    shared.counts.rejected["shared_full"] += 3
    store.counts.errors["DiskError"] += 4
    shared.counts.errors["paused"] += 5
    tiers.reject("incomplete")
    counts = tiers.counts()
    assert counts.evictions == {"main": 2}
    assert counts.rejected == {"shared_full": 3, "incomplete": 1}
    assert counts.errors == {"store_DiskError": 4, "shared_paused": 5}
    assert tiers.figures().errors == counts.errors


def test_figures(cache: ResponseCache) -> None:
    cache.put(KEY, cached_response(b"x" * 1000, target="/v1/chat/completions?a=secret"))
    cache.put(cache_key("b"), cached_response(b"x" * 2000))
    for _ in range(3):
        assert cache.get(KEY) is not None
    assert cache.get(CacheKey("project-1", b"\0" * 32)) is None
    figures = cache.figures().node
    assert (figures.items, figures.hits, figures.misses) == (2, 3, 1)
    assert 3000 < figures.bytes <= figures.limit
    assert [each.name for each in figures.largest] == [cache_key("b").name, KEY.name]
    (most,) = figures.most_hit
    assert (most.name, most.hits, most.path) == (KEY.name, 3, "/v1/chat/completions")
