"""The contract of the stores behind :class:`proxy.cache.response_cache.ResponseCache`.

A store keeps two kinds of things. *Entries* are encoded responses under a :class:`CacheKey`; it may
drop any of them at any time, and a failure is a miss. *Records* are small values under a name, for
idempotency. A pinned record stays until its time is over, and a failure is an error: a request that
cannot claim its name must not be sent.

All times are Unix seconds.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple, Protocol

from proxy.cache.entry import CachedResponse
from proxy.cache.key import CacheKey
from proxy.core.errors import BackendError

#: The part of a store that pinned records may take.
PINNED_SHARE: Final = 0.25


class RecordsFull(BackendError):
    """No room for another pinned record."""


class RecordsUnavailable(BackendError):
    """It cannot be known whether a record exists."""


class PurgeIncomplete(BackendError):
    """A store does not respond, so that entries that were to be deleted may still be hit."""


def records_full() -> RecordsFull:
    return RecordsFull(
        "Too many requests with an `Idempotency-Key` are in flight. Try again later, or send the "
        "request without the key."
    )


def purge_incomplete(store: str) -> PurgeIncomplete:
    return PurgeIncomplete(
        f"{store} does not respond: entries may remain there. Repeat the purge when it does."
    )


def records_unavailable() -> RecordsUnavailable:
    return RecordsUnavailable(
        "The store of idempotency keys is not available right now. Nothing was sent to the "
        "upstream: try again later, or send the request without the key."
    )


class Item:
    """A response on its way into a store.

    `kept_until` is when it may be deleted: later than it expires where stale responses are served.
    """

    def __init__(self, key: CacheKey, response: CachedResponse, kept_until: float) -> None:
        self.key = key
        self.response = response
        self.kept_until = kept_until

    @cached_property
    def data(self) -> bytes:
        """The encoded response. Made on first use, which is beside the path of requests."""
        return self.response.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The entries that a purge deletes: those that match all that is given.

    Attributes:
        scope: A scope, or a project with all scopes in it. None: every scope.
        target: The whole request target, with its query.
        prefix: What the target begins with.
        name: The key's name, as in `X-Cache-Key`.
    """

    scope: str | None = None
    method: str | None = None
    target: str | None = None
    prefix: str | None = None
    name: str | None = None

    def has_scope(self, scope: str) -> bool:
        wanted = self.scope
        return wanted is None or scope == wanted or scope.partition(":")[0] == wanted

    def matches(self, digest: bytes, method: str, target: str) -> bool:
        """Return whether an entry matches, apart from its scope."""
        return (
            (self.method is None or method == self.method)
            and (self.target is None or target == self.target)
            and (self.prefix is None or target.startswith(self.prefix))
            and (self.name is None or digest.hex().startswith(self.name))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryFacts:
    """One entry, without its content. `path` is the target without its query."""

    name: str
    scope: str
    method: str
    path: str
    size: int
    hits: int
    stored_at: float
    expires_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFigures:
    """The figures of a store, of all workers that share it.

    `hits` and `misses` count look-ups, `evictions` by cause, `rejected` by reason.
    """

    items: int = 0
    bytes: int = 0
    limit: int = 0
    hits: int = 0
    misses: int = 0
    evictions: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    largest: list[EntryFacts] = field(default_factory=list)
    most_hit: list[EntryFacts] = field(default_factory=list)


class StoreSize(NamedTuple):
    """What a store holds now, and how much it may hold. Of all workers that share it."""

    items: int
    bytes: int
    limit: int


class Counts:
    """What one worker counts of a store since its start, for its metrics."""

    def __init__(self) -> None:
        self.evictions: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        #: Failures of the store itself, by kind. Each was a miss, or a response that is not kept.
        self.errors: Counter[str] = Counter()


class Records(Protocol):
    """Named values with a time to live. A name and a value may have any bytes.

    Raises RecordsUnavailable when the store does not respond.
    """

    def claim(self, name: str, value: bytes, ttl: float) -> bytes | None:
        """Put a pinned record unless there is one, atomically.

        Returns the value that is there already, or None: the name is claimed. Raises RecordsFull.
        """

    def get_record(self, name: str) -> bytes | None: ...

    def put_record(
        self,
        name: str,
        value: bytes,
        ttl: float,
        *,
        expected: bytes | None = None,
        pinned: bool = False,
    ) -> bool:
        """Put a record, or replace one. Returns whether that was done.

        With `expected` it is done only while the record has that value, so that the owner of a
        claim renews or finishes its own claim and no later one. An unpinned record may be evicted.
        Raises RecordsFull.
        """

    def delete_record(self, name: str, *, expected: bytes | None = None) -> bool:
        """Delete a record, with `expected` only while it has that value. Returns whether it did."""


class Store(Records, Protocol):
    """A store that all workers of a node share, or one worker has for itself."""

    #: Of this worker.
    counts: Counts

    def start(self) -> None:
        """Open the store. Called after the fork, before the first request. Does not raise."""

    def close(self, deadline: float) -> None:
        """Write what waits, for at most `deadline` seconds."""

    def get(self, key: CacheKey, *, stale: bool = False) -> bytes | None:
        """Return the encoded response that is kept under `key`, with `stale` also an expired one.

        Does not wait, and does not raise.
        """

    def put(self, item: Item) -> None:
        """Keep a response, in place of one with the same key. Returns at once."""

    def delete(self, key: CacheKey) -> None:
        """Delete one entry, soon."""

    def purge(self, selection: Selection) -> set[bytes]:
        """Delete the selected entries. Returns the digests of those that could still be hit, be it
        as stale ones.

        Waits. Raises PurgeIncomplete.
        """

    def forget(self, scope: str, target: str) -> None:
        """Delete the entries of GET requests for a target, soon. `scope` as in Selection."""

    def flush(self, seconds: float) -> bool:
        """Wait until what was put before is kept. Returns whether it is."""

    def figures(self) -> StoreFigures: ...


class FirstStore(Store, Protocol):
    """The store of a node or a worker. It is asked within microseconds."""

    def size(self) -> StoreSize:
        """Return the size, for the metrics: does not wait, and does not raise."""
