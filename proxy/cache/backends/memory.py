"""A store in the memory of one process, with the contract of the other stores.

It is for tests of what stands above a store: the workers of an installation share a file. The least
recently used entry is dropped first.
"""

import time
from collections import Counter
from collections.abc import Callable
from heapq import nlargest
from typing import Any, Final, cast

from cachetools import LRUCache

from proxy.cache.backends.base import (
    PINNED_SHARE,
    Counts,
    EntryFacts,
    Item,
    Selection,
    StoreFigures,
    StoreSize,
    records_full,
)
from proxy.cache.key import CacheKey

#: Bytes of a record beside its name and value.
_RECORD_OVERHEAD: Final = 256
_SHOWN: Final = 10


class _Entry:
    __slots__ = ("data", "hits", "kept_until", "method", "scope", "size", "target", "times")

    def __init__(self, item: Item) -> None:
        response = item.response
        self.data = item.data
        self.scope, self.method, self.target = item.key.scope, response.method, response.target
        self.size = response.size
        self.times = response.stored_at, response.expires_at
        self.kept_until = item.kept_until
        self.hits = 0


class _Record:
    __slots__ = ("kept_until", "size", "value")

    def __init__(self, name: str, value: bytes, kept_until: float) -> None:
        self.value = value
        self.kept_until = kept_until
        self.size = len(name) + len(value) + _RECORD_OVERHEAD


class _Evicting(LRUCache[Any, Any]):
    """Counts what it drops for want of room."""

    def __init__(self, size: int, getsizeof: Callable[[Any], int], dropped: Counter[str]) -> None:
        super().__init__(size, getsizeof)
        self._dropped = dropped

    def popitem(self) -> tuple[Any, Any]:
        self._dropped["room"] += 1
        return super().popitem()


class MemoryStore:
    """See :class:`proxy.cache.backends.base.Store`.

    Args:
        size: Bytes of all entries and records together.
    """

    def __init__(self, size: int, *, clock: Callable[[], float] = time.time) -> None:
        self._size = size
        self._clock = clock
        self.counts = Counts()
        self._hits = self._misses = 0
        # Entries under their digest (bytes), evictable records under their name (text).
        room = int(size * (1 - PINNED_SHARE))
        self._kept = _Evicting(room, _size_of, self.counts.evictions)
        # What is pinned is outside the order of use.
        self._pinned: dict[str, _Record] = {}

    def start(self) -> None:
        """Nothing to open."""

    def close(self, deadline: float) -> None:
        """Nothing waits to be written."""

    def get(self, key: CacheKey, *, stale: bool = False) -> bytes | None:
        entry = self._kept.get(key.digest)
        if (
            entry is None
            or entry.scope != key.scope
            or (entry.kept_until if stale else entry.times[1]) <= self._clock()
        ):
            self._misses += 1
            return None
        entry.hits += 1
        self._hits += 1
        return cast(bytes, entry.data)

    def put(self, item: Item) -> None:
        try:
            self._kept[item.key.digest] = _Entry(item)
        except ValueError:  # larger than all of the cache
            self.counts.rejected["too_large"] += 1
            self._kept.pop(item.key.digest, None)

    def delete(self, key: CacheKey) -> None:
        self._kept.pop(key.digest, None)

    def purge(self, selection: Selection) -> set[bytes]:
        return {
            digest
            for digest, entry in self._entries()
            if selection.has_scope(entry.scope)
            and selection.matches(digest, entry.method, entry.target)
            and self._kept.pop(digest).kept_until > self._clock()
        }

    def forget(self, scope: str, target: str) -> None:
        self.purge(Selection(scope=scope, method="GET", target=target))

    def flush(self, seconds: float) -> bool:
        return True

    def size(self) -> StoreSize:
        used = int(self._kept.currsize) + self._pinned_bytes()
        return StoreSize(len(self._entries()), used, self._size)

    def figures(self) -> StoreFigures:
        entries, size = self._entries(), self.size()
        return StoreFigures(
            items=size.items,
            bytes=size.bytes,
            limit=size.limit,
            hits=self._hits,
            misses=self._misses,
            evictions=dict(self.counts.evictions),
            rejected=dict(self.counts.rejected),
            largest=[_facts(*each) for each in nlargest(_SHOWN, entries, _size_first)],
            most_hit=[
                _facts(*each) for each in nlargest(_SHOWN, entries, _hits_first) if each[1].hits
            ],
        )

    def claim(self, name: str, value: bytes, ttl: float) -> bytes | None:
        record = self._record(name)
        if record is not None:
            return record.value
        self._put(name, value, ttl, pinned=True)
        return None

    def get_record(self, name: str) -> bytes | None:
        record = self._record(name)
        return None if record is None else record.value

    def put_record(
        self,
        name: str,
        value: bytes,
        ttl: float,
        *,
        expected: bytes | None = None,
        pinned: bool = False,
    ) -> bool:
        if expected is not None and self.get_record(name) != expected:
            return False
        self._put(name, value, ttl, pinned)
        return True

    def delete_record(self, name: str, *, expected: bytes | None = None) -> bool:
        record = self._record(name)
        if record is None or (expected is not None and record.value != expected):
            return False
        self._drop(name)
        return True

    def _entries(self) -> list[tuple[bytes, _Entry]]:
        return [each for each in self._kept.items() if isinstance(each[1], _Entry)]

    def _record(self, name: str) -> _Record | None:
        record = self._pinned.get(name) or cast(_Record | None, self._kept.get(name))
        return None if record is None or record.kept_until <= self._clock() else record

    def _put(self, name: str, value: bytes, ttl: float, pinned: bool) -> None:
        now = self._clock()
        record = _Record(name, value, now + ttl)
        if not pinned:
            self._drop(name)
            try:
                self._kept[name] = record
            except ValueError:
                self.counts.rejected["too_large"] += 1
            return
        over = [each for each, old in self._pinned.items() if old.kept_until <= now]
        for each in over:
            self._drop(each)
        before = self._pinned.get(name)
        taken = self._pinned_bytes() - (before.size if before else 0)
        if taken + record.size > self._size * PINNED_SHARE:
            raise records_full()
        self._drop(name)
        self._pinned[name] = record

    def _drop(self, name: str) -> None:
        self._pinned.pop(name, None)
        self._kept.pop(name, None)

    def _pinned_bytes(self) -> int:
        return sum(record.size for record in self._pinned.values())


def _size_of(kept: _Entry | _Record) -> int:
    return kept.size


def _size_first(each: tuple[bytes, _Entry]) -> int:
    return each[1].size


def _hits_first(each: tuple[bytes, _Entry]) -> int:
    return each[1].hits


def _facts(digest: bytes, entry: _Entry) -> EntryFacts:
    stored_at, expires_at = entry.times
    return EntryFacts(
        name=CacheKey(entry.scope, digest).name,
        scope=entry.scope,
        method=entry.method,
        path=entry.target.partition("?")[0],
        size=entry.size,
        hits=entry.hits,
        stored_at=stored_at,
        expires_at=expires_at,
    )
