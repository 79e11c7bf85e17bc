"""The LMDB file of a node (``proxy/cache/backends/node.py``), as one process sees it."""

import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from proxy.cache.backends import node
from proxy.cache.backends.base import (
    Item,
    PurgeIncomplete,
    RecordsFull,
    RecordsUnavailable,
    Selection,
)
from proxy.cache.backends.node import NodeStore
from proxy.cache.key import CacheKey
from tests.support.cached_responses import NOW, cache_key, cached_response
from tests.support.clock import Clock

SECRET = bytes(range(32))
MIB = 1024 * 1024
SIZE = 4 * MIB

Maker = Callable[..., NodeStore]


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "cache"


@pytest.fixture
def make(folder: Path, clock: Clock) -> Iterator[Maker]:
    made: list[NodeStore] = []

    def make(secret: bytes = SECRET, *, size: int = SIZE, start: bool = True) -> NodeStore:
        store = NodeStore(folder, secret, size=size, clock=clock)
        made.append(store)
        if start:
            store.start()
        return store

    yield make
    for store in made:
        store.close(20)


def put(store: NodeStore, name: str, body: bytes = b"{}", *, ttl: float = 300.0) -> CacheKey:
    response = cached_response(body, ttl=ttl)
    key = cache_key(name)
    store.put(Item(key, response, response.expires_at))
    return key


def kept(store: NodeStore, name: str, body: bytes = b"{}", *, ttl: float = 300.0) -> CacheKey:
    key = put(store, name, body, ttl=ttl)
    assert store.flush(20)
    assert store.get(key) is not None, name
    return key


def data_file(folder: Path) -> Path:
    (found,) = folder.glob("*/data.mdb")
    return found


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# What lies on disk.


def test_only_the_owner_can_read_it(make: Maker, folder: Path) -> None:
    kept(make(), "a")
    paths = [folder, *folder.rglob("*")]
    assert len(paths) == 5
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_nothing_of_it_is_legible(make: Maker, folder: Path) -> None:
    store = make()
    response = cached_response(
        b"canary-body " * 100,
        scope="canary-scope:canary-token",
        target="/v1/canary-target?key=canary-query",
        headers=[("x-canary", "canary-header")],
        model="canary-model",
    )
    key = cache_key("a", response.scope)
    store.put(Item(key, response, response.expires_at))
    assert store.claim("canary-name", b"canary-value", 60) is None
    assert store.put_record("canary-done", b"canary-result", 60)
    assert store.flush(20)
    assert store.get(key) == response.encode()
    assert b"canary" not in data_file(folder).read_bytes()


def test_it_outlives_its_process(make: Maker) -> None:
    first = make()
    key = kept(first, "a")
    assert first.claim("n", b"one", 60) is None
    first.close(20)
    second = make()
    assert second.get(key) == cached_response().encode()
    assert second.claim("n", b"two", 60) == b"one"


def test_another_secret_reads_nothing(make: Maker) -> None:
    first = make()
    key = kept(first, "a")
    first.close(20)
    second = make(bytes(32))
    assert second.get(key) is None
    assert second.counts.errors == {"unreadable": 1}
    kept(second, "a")


def test_a_file_of_an_earlier_boot_is_deleted(
    make: Maker, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut left could crash its readers."""
    first = make()
    key = kept(first, "a")
    first.close(20)
    boot = tmp_path / "boot_id"
    boot.write_text("0123456789abcdef\n")
    monkeypatch.setattr(node, "_BOOT_ID", boot)
    second = make()
    assert second.get(key) is None
    assert "01234567" in str(data_file(folder))
    kept(second, "a")


def test_a_file_of_another_size_is_deleted(make: Maker, folder: Path) -> None:
    first = make()
    kept(first, "a")
    first.close(20)
    kept(make(size=2 * SIZE), "a")
    assert len(list(folder.glob("*/data.mdb"))) == 1


@pytest.mark.parametrize("content", [b"", b"garbage" * 10_000, b"\0" * 8192])
def test_a_damaged_file_is_replaced(make: Maker, folder: Path, content: bytes) -> None:
    first = make()
    kept(first, "a")
    first.close(20)
    data_file(folder).write_bytes(content)
    kept(make(), "b")


def test_a_deleted_file_is_made_anew(make: Maker, folder: Path) -> None:
    store = make()
    key = kept(store, "a")
    data_file(folder).rename(folder / "elsewhere")
    store._maintain()
    assert store.get(key) is None
    kept(store, "b")
    assert data_file(folder).exists()


def test_a_file_that_proves_to_be_damaged_is_replaced(make: Maker, folder: Path) -> None:
    store = make()
    key = kept(store, "a")
    before = data_file(folder).stat().st_ino
    store._failed(lmdb.CorruptedError("a page is not what it was"))
    store._maintain()
    assert store.get(key) is None
    assert data_file(folder).stat().st_ino != before
    kept(store, "b")
    assert not store._damaged


# What cannot be trusted.


def change(store: NodeStore, edit: Callable[[Any], object]) -> None:
    assert store._environment is not None
    with store._environment.begin(write=True, db=store._values) as transaction:
        edit(transaction)


def test_a_swapped_value_is_a_miss(make: Maker) -> None:
    store = make()
    a, b = kept(store, "a", b"one"), kept(store, "b", b"two")

    def swap(transaction: Any) -> None:
        one, two = transaction.get(a.digest), transaction.get(b.digest)
        assert one is not None
        assert two is not None
        transaction.put(a.digest, two)
        transaction.put(b.digest, one)

    change(store, swap)
    assert store.get(a) is store.get(b) is None
    assert store.counts.errors == {"unreadable": 2}


@pytest.mark.parametrize("at", [0, 9, 15, 16, 20, 40, -1])
def test_a_changed_value_is_a_miss(make: Maker, at: int) -> None:
    """Wherever it was changed: in the times, the day of the key, the nonce, the rest."""
    store = make()
    key = kept(store, "a", b"one")

    def flip(transaction: Any) -> None:
        value = bytearray(transaction.get(key.digest) or b"")
        value[at] ^= 1
        transaction.put(key.digest, bytes(value))

    change(store, flip)
    assert store.get(key, stale=True) is None


@pytest.mark.parametrize("length", [0, 10, 16, 30, 60])
def test_a_cut_value_is_a_miss(make: Maker, length: int) -> None:
    store = make()
    key = kept(store, "a", b"one")
    change(store, lambda txn: txn.put(key.digest, (txn.get(key.digest) or b"")[:length]))
    assert store.get(key) is None
    assert store.counts.errors == {"unreadable": 1}


def test_a_changed_record_is_no_free_name(make: Maker) -> None:
    store = make()
    assert store.claim("n", b"one", 60) is None
    digest = store._sealing.record_digest("n")
    change(store, lambda txn: txn.put(digest, (txn.get(digest) or b"")[:-1] + b"?"))
    for call in (lambda: store.claim("n", b"two", 60), lambda: store.get_record("n")):
        with pytest.raises(RecordsUnavailable):
            call()


def test_a_record_that_cannot_be_read_is_no_free_name(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make()
    assert store.claim("n", b"one", 60) is None
    with monkeypatch.context() as broken:
        broken.setattr(store, "_environment", Unreadable())
        with pytest.raises(RecordsUnavailable):
            store.get_record("n")
    assert store.counts.errors == {"ReadersFullError": 1}
    assert store.get_record("n") == b"one"


class Unreadable:
    """A file that has no slot for another reader."""

    def begin(self, **_: object) -> None:
        raise lmdb.ReadersFullError


# Bounds.


@pytest.mark.parametrize(
    ("size", "bodies"),
    [
        (1 * MIB, (100, 1500)),
        (2 * MIB, (300, 2100, 40_000)),
        (4 * MIB, (100, 10_000, 150_000)),
        (16 * MIB, (800_000, 2000)),
    ],
)
def test_it_stays_within_its_size(
    make: Maker, folder: Path, size: int, bodies: tuple[int, ...]
) -> None:
    store = make(size=size)
    chosen = random.Random(1)
    content = noise(max(bodies))
    written = 0
    number = 0
    while written < 3 * size:
        body = content[: chosen.choice(bodies)]
        key = put(store, str(number), body)
        written += len(body) + 1000
        number += 1
        if number % 4 == 0:
            assert store.flush(20)
    assert store.flush(20)
    assert store.get(key) is not None
    figures = store.figures()
    assert size / 3 < figures.bytes <= figures.limit == size
    assert data_file(folder).stat().st_size <= size
    assert figures.evictions["probation"] > 0
    # A large value may find no pages in a row. That is rare.
    assert store.counts.rejected["map_full"] <= number * 0.02
    assert set(store.counts.rejected) <= {"map_full"}
    assert not store.counts.errors


def test_a_response_that_is_too_large_is_refused(make: Maker) -> None:
    store = make()
    key = put(store, "a", noise(SIZE // 8))
    assert store.flush(20)
    assert store.get(key) is None
    assert store.figures().rejected == {"too_large": 1}


def test_a_full_queue_drops(make: Maker) -> None:
    store = make()
    body = noise(100_000)
    keys = [put(store, str(number), body) for number in range(50)]  # without a switch of greenlets
    dropped = store.counts.rejected["queue_full"]
    assert 0 < dropped < 50
    assert store.flush(20)
    assert store.figures().rejected == {"queue_full": dropped}
    assert store.get(keys[0]) is not None
    kept(store, "later", body)


def test_expired_entries_make_room_first(make: Maker, clock: Clock) -> None:
    store = make()
    old = [put(store, f"old {number}", noise(20_000), ttl=10) for number in range(20)]
    new = [kept(store, f"new {number}", noise(20_000)) for number in range(120)]
    clock.now += 11
    before = sum(store.get(key) is not None for key in new)
    for number in range(25):
        kept(store, f"more {number}", noise(20_000))
    assert sum(store.get(key) is not None for key in new) == before
    assert store.figures().evictions == {"expired": len(old)}


def test_expired_entries_are_deleted_without_need(make: Maker, clock: Clock) -> None:
    store = make()
    kept(store, "a", ttl=10)
    assert store.claim("n", b"one", 10) is None
    clock.now += 11
    for _ in range(node._EXPIRE_EVERY):
        store._maintain()
    assert store.flush(20)
    figures = store.figures()
    assert (figures.items, figures.evictions) == (0, {"expired": 2})


# Eviction.


def flood(store: NodeStore, name: str, count: int = 300) -> None:
    """Responses that never come again, twice as many as there is room for."""
    for number in range(count):
        put(store, f"{name} {number}", noise(30_000))
        if number % 8 == 7:
            assert store.flush(20)
    assert store.flush(20)


def test_what_is_hit_twice_outlives_a_flood(make: Maker) -> None:
    store = make()
    wanted = [kept(store, f"wanted {number}", noise(10_000)) for number in range(5)]
    for key in wanted:
        store.get(key)  # the second time
    once = kept(store, "once", noise(10_000))
    flood(store, "a")
    assert all(store.get(key) is not None for key in wanted)
    assert store.get(once) is None
    flood(store, "b")
    assert all(store.get(key) is not None for key in wanted)


def test_what_comes_back_is_kept_longer(make: Maker) -> None:
    """Its ghost is there when it is put again."""
    store = make()
    put(store, "again", noise(10_000))
    put(store, "not again", noise(10_000))
    flood(store, "a", 150)
    again = put(store, "again", noise(10_000))
    first_time = put(store, "first time", noise(10_000))
    flood(store, "b", 150)
    assert store.get(again) is not None
    assert store.get(first_time) is None


def test_the_main_queue_lets_go_of_what_is_not_hit_any_more(make: Maker) -> None:
    store = make()
    for number in range(200):
        key = kept(store, f"wanted {number}", noise(30_000))
        assert store.get(key) is not None
        assert store.flush(20)
    figures = store.figures()
    assert figures.evictions["main"] > 0
    assert store.get(key) is not None
    assert store.get(cache_key("wanted 0")) is None


# Records.


def test_pinned_records_take_a_quarter_at_most(make: Maker, clock: Clock) -> None:
    store = make()
    names: list[str] = []

    def claim_more() -> None:
        for number in range(1000):
            assert store.claim(str(number), noise(20_000), 60) is None
            names.append(str(number))

    with pytest.raises(RecordsFull, match="Idempotency-Key"):
        claim_more()
    assert 0.15 * SIZE < len(names) * 20_000 < 0.25 * SIZE
    assert store.get_record("no such record") is None
    flood(store, "a")
    assert all(store.get_record(name) == noise(20_000) for name in names)
    # A finished one may be evicted, and makes room for another claim.
    assert store.put_record(names[0], b"done", 60)
    assert store.claim("new", noise(10_000), 60) is None
    clock.now += 61
    assert store.claim("later", noise(20_000), 60) is None


def test_a_result_may_be_evicted(make: Maker) -> None:
    store = make()
    assert store.claim("n", b"running", 600) is None
    assert store.put_record("n", noise(10_000), 600, expected=b"running")
    assert store.get_record("n") == noise(10_000)
    for number in range(200):
        kept(store, f"wanted {number}", noise(30_000))
        store.get(cache_key(f"wanted {number}"))
        assert store.flush(20)
    assert store.get_record("n") is None


def test_a_result_that_is_too_large_is_not_kept(make: Maker) -> None:
    store = make()
    assert store.claim("n", b"running", 600) is None
    assert store.put_record("n", noise(SIZE // 8), 600)
    assert store.get_record("n") is None
    assert store.counts.rejected == {"too_large": 1}


# Failures.


def test_without_its_folder_everything_is_a_miss(
    make: Maker, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    store = make()
    key = put(store, "a")
    assert store.flush(20)
    assert store.get(key) is None
    with pytest.raises(PurgeIncomplete, match="file of the response cache"):
        store.purge(Selection())
    store.forget("project-1", "/v1/models")
    store.delete(key)
    assert store.counts.rejected == {"store_unavailable": 1}
    assert store.figures().items == 0
    for call in (
        lambda: store.claim("n", b"", 1),
        lambda: store.get_record("n"),
        lambda: store.put_record("n", b"", 1),
        lambda: store.delete_record("n"),
    ):
        with pytest.raises(RecordsUnavailable, match="Nothing was sent"):
            call()
    assert [record.message for record in caplog.records] == [
        f"response cache: the file in {folder} cannot be used, and nothing is stored meanwhile: "
        f"FileExistsError: [Errno 17] File exists: '{folder}'"
    ]
    folder.unlink()
    store._maintain()
    kept(store, "a")
    assert "can be used again" in caplog.records[-1].message


def test_figures_count_hits_misses_and_entries(make: Maker) -> None:
    store = make()
    a = kept(store, "a", noise(5000))
    kept(store, "b", noise(10_000))
    for _ in range(3):
        assert store.get(a) is not None
    assert store.get(cache_key("c")) is None
    figures = store.figures()
    assert (figures.items, figures.hits, figures.misses) == (2, 5, 1)
    assert [each.name for each in figures.largest] == [cache_key("b").name, a.name]
    assert [(each.name, each.hits) for each in figures.most_hit] == [
        (a.name, 4),
        (cache_key("b").name, 1),
    ]
    assert {each.path for each in figures.largest} == {"/v1/chat/completions"}
    assert (figures.largest[0].stored_at, figures.largest[0].expires_at) == (NOW, NOW + 300)


def test_a_closed_store_is_empty_and_can_be_closed_again(make: Maker) -> None:
    store = make()
    key = kept(store, "a")
    store.close(20)
    store.close(20)
    assert store.get(key) is None
