"""What one write transaction does to the tables of :class:`proxy.cache.backends.node.NodeStore`.

Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). A
new entry waits in a small probation queue, a tenth of the store, and leaves it by its age. Most
prompts never come again, so most entries leave there, and cost the others nothing. An entry that
was hit twice meanwhile moves to the main queue. What left probation is remembered for a while by
its hash alone, a *ghost*; if it is put again, it goes to the main queue at once. In the main queue
an entry that was hit since it last came to the end goes round once more per hit.

Unlike LRU, a hit moves nothing: it is a number, written later and by the batch.

Tables (all integers are big-endian, so that their order is that of the keys)::

    values       digest                           → f64 expires, f64 kept until, sealed value
    meta         digest                           → see `_META`
    probation    u64 number                       → digest, in the order of arrival
    main         u64 number                       → digest
    expiry       u64 kept until (µs), digest      → nothing
    labels       tags (24 bytes), digest          → sealed scope, method and target
    ghosts       8 bytes of a digest              → u64 number
    ghost_order  u64 number                       → 8 bytes of a digest
    facts        "facts"                          → JSON of :class:`Facts`
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final

import orjson

from proxy.cache.backends.base import PINNED_SHARE, records_full

TABLES: Final = (
    "values",
    "meta",
    "probation",
    "main",
    "expiry",
    "labels",
    "ghosts",
    "ghost_order",
    "facts",
)

#: Queue, hits since the entry last moved (at most 3), bytes in the file, number in the queue, hits
#: in all, times of storing, expiring and deleting, tags.
_META: Final = struct.Struct(">BBIQQddd24s")
#: In front of a sealed value: expires, kept until.
HEAD: Final = struct.Struct(">dd")
_NUMBER: Final = struct.Struct(">Q")
TAG_BYTES: Final = 8
NO_TAGS: Final = bytes(3 * TAG_BYTES)

PROBATION, MAIN, PINNED = 1, 2, 3
_QUEUE_NAMES: Final = {PROBATION: "probation", MAIN: "main"}
_PROBATION_SHARE: Final = 0.1
#: Hits in probation by which an entry moves to the main queue.
_PROMOTING_HITS: Final = 2
_MAX_RECENT_HITS: Final = 3
#: Entries that one eviction lets go round in the main queue, before it takes one all the same.
_MAX_ROUNDS: Final = 64
#: Expired entries that one transaction deletes.
_EXPIRED_BATCH: Final = 64
#: Entries that give way in one transaction. Few, since each makes copies of pages.
_GIVE_WAY_ENTRIES: Final = 8
#: Ghosts per entry, and at least.
_GHOST_SHARE: Final = 1.0
_MIN_GHOSTS: Final = 1000

_PAGE_BYTES: Final = 4096
#: A larger key and value get pages of their own (`me_nodemax` of LMDB, less the key).
_MAX_INLINE: Final = 1990
#: What the other tables and half-full pages take for an entry.
_ENTRY_BYTES: Final = 700


def bytes_in_file(value: int) -> int:
    """Return about how many bytes of the file an entry takes whose value has `value` bytes."""
    if value > _MAX_INLINE:
        return -(-(value + 16) // _PAGE_BYTES) * _PAGE_BYTES + _ENTRY_BYTES
    return value * 3 // 2 + _ENTRY_BYTES


@dataclass
class Facts:
    """The sums of a store. `evictions` by cause, `rejected` by reason; bytes of the queues."""

    number: int = 0
    items: int = 0
    probation: int = 0
    main: int = 0
    pinned: int = 0
    ghosts: int = 0
    hits: int = 0
    misses: int = 0
    evictions: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)

    @classmethod
    def decode(cls, data: bytes | None) -> "Facts":
        return cls() if data is None else cls(**orjson.loads(data))

    @property
    def bytes(self) -> int:
        return self.probation + self.main + self.pinned


@dataclass
class Meta:
    queue: int
    recent_hits: int
    size: int
    number: int
    hits: int
    stored_at: float
    expires_at: float
    kept_until: float
    tags: bytes

    @classmethod
    def decode(cls, data: bytes) -> "Meta":
        return cls(*_META.unpack(data))

    def encode(self) -> bytes:
        return _META.pack(
            self.queue,
            self.recent_hits,
            self.size,
            self.number,
            self.hits,
            self.stored_at,
            self.expires_at,
            self.kept_until,
            self.tags,
        )


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry or record as it is written. `label` is empty for a record."""

    digest: bytes
    value: bytes
    tags: bytes
    label: bytes
    stored_at: float
    expires_at: float
    kept_until: float


class TableWriter:
    """The tables in one write transaction. :meth:`finish` precedes the commit.

    Args:
        transaction: An open write transaction of LMDB.
        tables: Name → handle.
        capacity: Bytes of the file that may be in use. What a queue has of them is estimated, see
            :func:`bytes_in_file`; how many there are in all is known, see :func:`used_bytes`.
    """

    def __init__(self, transaction: Any, tables: dict[str, Any], capacity: int, now: float) -> None:
        self._txn = transaction
        self._tables = tables
        self._capacity = capacity
        self._now = now
        self.facts = Facts.decode(self._get("facts", b"facts"))
        #: What this transaction has evicted, by cause.
        self.evicted: Counter[str] = Counter()

    def finish(self) -> None:
        for cause, count in self.evicted.items():
            self.facts.evictions[cause] = self.facts.evictions.get(cause, 0) + count
        self._put("facts", b"facts", orjson.dumps(asdict(self.facts)))

    def read(self, digest: bytes) -> bytes | None:
        """Return the value with its head, or None when there is none that is kept."""
        data = self._get("values", digest)
        return None if data is None or HEAD.unpack_from(data)[1] <= self._now else data

    def put(self, sealed: Sealed) -> None:
        """Put an entry, in place of one with the same digest."""
        size = bytes_in_file(len(sealed.value))
        old = self._meta(sealed.digest)
        if old is not None and old.queue != PINNED:
            self._remove(sealed.digest, old)
            meta = self._new(sealed, size, old.queue, old.number)
            meta.hits, meta.recent_hits = old.hits, old.recent_hits
        else:
            if old is not None:
                self._remove(sealed.digest, old)
            comes_again = self._forget_ghost(sealed.digest) or not sealed.label
            queue = MAIN if comes_again else PROBATION
            meta = self._new(sealed, size, queue, self._next_number())
        self._insert(sealed, meta)
        self.make_room(spared=sealed.digest)

    def pin(self, sealed: Sealed) -> None:
        """Put an entry that is not evicted. Raises RecordsFull."""
        size = bytes_in_file(len(sealed.value))
        old = self._meta(sealed.digest)
        if old is not None:
            self._remove(sealed.digest, old)
        if self.facts.pinned + size > self._capacity * PINNED_SHARE:
            self.expire()
        if self.facts.pinned + size > self._capacity * PINNED_SHARE:
            raise records_full()
        self._insert(sealed, self._new(sealed, size, PINNED, 0))
        self.make_room(spared=sealed.digest)

    def delete(self, digest: bytes) -> bool:
        """Delete an entry. Returns whether it was there, and would have been kept."""
        meta = self._meta(digest)
        if meta is None:
            return False
        self._remove(digest, meta)
        return meta.kept_until > self._now

    def touch(self, hits: dict[bytes, int]) -> None:
        """Write the hits of entries, and add them to the sum."""
        for digest, count in hits.items():
            self.facts.hits += count
            meta = self._meta(digest)
            if meta is not None:
                meta.hits += count
                meta.recent_hits = min(meta.recent_hits + count, _MAX_RECENT_HITS)
                self._put("meta", digest, meta.encode())

    def expire(self, most: int = _EXPIRED_BATCH) -> int:
        """Delete what is not kept any more, at most `most` entries. Returns how many."""
        due = []
        for key in islice(self._keys("expiry"), most):
            if _NUMBER.unpack_from(key)[0] > self._now * 1e6:
                break
            due.append(key[_NUMBER.size :])
        for digest in due:
            self._evict(digest, "expired")
        return len(due)

    def make_room(self, *, spared: bytes = b"") -> None:
        """Evict until everything fits. `spared` is the last to go."""
        while self._is_over() and self.expire():
            pass
        while self._is_over() and (self.facts.probation or self.facts.main):
            self._evict_next(spared)

    def give_way(self, wanted: int) -> None:
        """Evict a few entries, of about `wanted` bytes, although everything fits."""
        until = self.facts.bytes - wanted
        for _ in range(_GIVE_WAY_ENTRIES):
            if self.facts.bytes <= until or not (self.facts.probation or self.facts.main):
                return
            self._evict_next(b"")

    def _is_over(self) -> bool:
        return used_bytes(self._txn, self._tables) > self._capacity

    def _evict_next(self, spared: bytes) -> None:
        evictable = self.facts.probation + self.facts.main
        over = self.facts.probation > evictable * _PROBATION_SHARE
        if self.facts.probation and (over or not self.facts.main):
            self._leave_probation(spared)
        else:
            self._leave_main()

    def _leave_probation(self, spared: bytes) -> None:
        digest = next(self._digests("probation"), None)
        meta = None if digest is None else self._meta(digest)
        if digest is None or meta is None:
            self._repair(PROBATION)
        elif meta.recent_hits >= _PROMOTING_HITS or digest == spared:
            self._move(digest, meta, MAIN, 0)
        else:
            self._evict(digest, "probation")
            self._add_ghost(digest)

    def _leave_main(self) -> None:
        for rounds in range(_MAX_ROUNDS):
            digest = next(self._digests("main"), None)
            meta = None if digest is None else self._meta(digest)
            if digest is None or meta is None:
                self._repair(MAIN)
                return
            if not meta.recent_hits or rounds == _MAX_ROUNDS - 1:
                self._evict(digest, "main")
                return
            self._move(digest, meta, MAIN, meta.recent_hits - 1)

    def _repair(self, queue: int) -> None:
        """The sums say that a queue has entries, and it has none, or one without an entry."""
        name = _QUEUE_NAMES[queue]
        first = next(self._keys(name), None)
        if first is None:
            setattr(self.facts, name, 0)
        else:
            self._delete(name, first)

    def _evict(self, digest: bytes, cause: str) -> None:
        meta = self._meta(digest)
        if meta is not None:
            self._remove(digest, meta)
            self.evicted[cause] += 1

    def _new(self, sealed: Sealed, size: int, queue: int, number: int) -> Meta:
        return Meta(
            queue,
            0,
            size,
            number,
            0,
            sealed.stored_at,
            sealed.expires_at,
            sealed.kept_until,
            sealed.tags,
        )

    def _insert(self, sealed: Sealed, meta: Meta) -> None:
        digest = sealed.digest
        self._put("values", digest, sealed.value)
        self._put("meta", digest, meta.encode())
        self._put("expiry", _expiry_key(digest, meta), b"")
        if sealed.label:
            self._put("labels", meta.tags + digest, sealed.label)
            self.facts.items += 1
        if meta.queue != PINNED:
            self._put(_QUEUE_NAMES[meta.queue], _NUMBER.pack(meta.number), digest)
        self._count(meta.queue, meta.size)

    def _remove(self, digest: bytes, meta: Meta) -> None:
        self._delete("values", digest)
        self._delete("meta", digest)
        self._delete("expiry", _expiry_key(digest, meta))
        if meta.tags != NO_TAGS:
            self._delete("labels", meta.tags + digest)
            self.facts.items -= 1
        if meta.queue != PINNED:
            self._delete(_QUEUE_NAMES[meta.queue], _NUMBER.pack(meta.number))
        self._count(meta.queue, -meta.size)

    def _move(self, digest: bytes, meta: Meta, queue: int, recent_hits: int) -> None:
        self._delete(_QUEUE_NAMES[meta.queue], _NUMBER.pack(meta.number))
        self._count(meta.queue, -meta.size)
        meta.queue, meta.number, meta.recent_hits = queue, self._next_number(), recent_hits
        self._put(_QUEUE_NAMES[queue], _NUMBER.pack(meta.number), digest)
        self._count(queue, meta.size)
        self._put("meta", digest, meta.encode())

    def _count(self, queue: int, size: int) -> None:
        name = "pinned" if queue == PINNED else _QUEUE_NAMES[queue]
        setattr(self.facts, name, getattr(self.facts, name) + size)

    def _next_number(self) -> int:
        self.facts.number += 1
        return self.facts.number

    def _add_ghost(self, digest: bytes) -> None:
        ghost, number = digest[:8], _NUMBER.pack(self._next_number())
        self._put("ghosts", ghost, number)
        self._put("ghost_order", number, ghost)
        self.facts.ghosts += 1
        most = max(_MIN_GHOSTS, self.facts.items * _GHOST_SHARE)
        while self.facts.ghosts > most:
            oldest = next(self._keys("ghost_order"), None)
            if oldest is None:
                self.facts.ghosts = 0
                return
            self._drop_ghost(oldest)

    def _forget_ghost(self, digest: bytes) -> bool:
        number = self._get("ghosts", digest[:8])
        if number is None:
            return False
        self._drop_ghost(number)
        return True

    def _drop_ghost(self, number: bytes) -> None:
        ghost = self._get("ghost_order", number)
        self._delete("ghost_order", number)
        if ghost is not None and self._get("ghosts", ghost) == number:
            self._delete("ghosts", ghost)
        self.facts.ghosts -= 1

    def _meta(self, digest: bytes) -> Meta | None:
        data = self._get("meta", digest)
        return None if data is None else Meta.decode(data)

    def _get(self, table: str, key: bytes) -> bytes | None:
        found: bytes | None = self._txn.get(key, db=self._tables[table])
        return found

    def _put(self, table: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._tables[table])

    def _delete(self, table: str, key: bytes) -> None:
        self._txn.delete(key, db=self._tables[table])

    def _keys(self, table: str) -> Iterator[bytes]:
        with self._txn.cursor(db=self._tables[table]) as cursor:
            yield from cursor.iternext(keys=True, values=False)

    def _digests(self, table: str) -> Iterator[bytes]:
        with self._txn.cursor(db=self._tables[table]) as cursor:
            yield from cursor.iternext(keys=False, values=True)


def used_bytes(transaction: Any, tables: dict[str, Any]) -> int:
    """Return the bytes of all pages that the tables take."""
    pages = 0
    for table in tables.values():
        stat = transaction.stat(db=table)
        pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
    return pages * _PAGE_BYTES


def select(
    transaction: Any,
    tables: dict[str, Any],
    tags: bytes,
    matches: Callable[[bytes, bytes, bytes], bool],
) -> list[bytes]:
    """Return the digests of the entries whose tags begin with `tags`, and that match.

    `matches` is called with the key in `labels`, the label and the digest.
    """
    found: list[bytes] = []
    with transaction.cursor(db=tables["labels"]) as cursor:
        if not cursor.set_range(tags or b"\0"):
            return found
        for key, label in cursor.iternext():
            if not key.startswith(tags):
                break
            digest = key[len(NO_TAGS) :]
            if matches(key, label, digest):
                found.append(digest)
    return found


def metas(transaction: Any, tables: dict[str, Any]) -> Iterable[tuple[bytes, Meta]]:
    """Return (digest, meta) of all entries and records."""
    with transaction.cursor(db=tables["meta"]) as cursor:
        for digest, data in cursor.iternext():
            yield digest, Meta.decode(data)


def _expiry_key(digest: bytes, meta: Meta) -> bytes:
    return _NUMBER.pack(int(max(meta.kept_until, 0.0) * 1e6)) + digest
