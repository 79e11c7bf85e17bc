"""The cache of what the store returned for access tokens.

An entry is fresh for `ttl` seconds. After that the next request refreshes it, once for all requests
that wait for it. While the store does not respond, the old entry remains in use for `grace` seconds
more, with growing pauses between the tries. A token that does not exist is remembered briefly, so
that a flood of bad tokens is not a flood of queries.

Note: a TTLCache forgets, so its time is `ttl` plus `grace`, and each entry keeps its own age. A
read that was in progress while its entry was evicted returns old data and must not be stored.
"""

import math
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import gevent
from cachetools import TTLCache

from proxy.core.errors import StoreError
from proxy.runtime.backoff import Backoff
from proxy.runtime.singleflight import SingleFlight

T = TypeVar("T")

#: Seconds for which a token counts as unknown. A token minted meanwhile waits at most that long.
UNKNOWN_SECONDS: Final = 2.0
#: Seconds that a request waits for a refresh before it uses the old entry.
_REFRESH_TIMEOUT: Final = 0.5
#: The same when the last read failed or was late: the store is away then, and every token that is
#: used needs a try of its own.
_REFRESH_TIMEOUT_DEGRADED: Final = 0.05
#: Seconds between two tries to refresh an entry: the first pause, and the longest.
_MIN_PAUSE: Final = 0.5
_MAX_PAUSE: Final = 5.0


class _Entry(Generic[T]):
    __slots__ = ("backoff", "read_at", "retry_at", "until", "value")

    def __init__(self, value: T, read_at: float) -> None:
        self.value = value
        # Monotonic seconds: when the store was read, and before when it is not read again.
        self.read_at = read_at
        self.retry_at = 0.0
        # The pauses between two tries, since the first one that failed; None before it.
        self.backoff: Backoff | None = None
        # When the entry may not be used any more, if that comes before its end in the cache.
        self.until = math.inf


class GrantCache(Generic[T]):
    """Values by key, read from the store when they are needed. One per worker."""

    def __init__(
        self,
        read: Callable[[str], T | None],
        *,
        size: int,
        ttl: float,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
        recall: Callable[[str], tuple[T, float] | None] | None = None,
    ) -> None:
        """Create the cache.

        Args:
            read: Reads a key from the store. Returns the value, or None for an unknown key.
                Raises StoreError.
            size: The maximum number of values, and the same of unknown keys.
            ttl: Seconds for which an entry is fresh.
            grace: Seconds for which it remains usable after that, while the store is away.
            clock: Monotonic seconds.
            recall: Called with a key that is not cached while the store is away. Returns a value
                that another worker knows and the seconds for which it may be used, or None. Does
                not raise.
        """
        self._read = read
        self._recall = recall
        # Whether the last read failed or was late.
        self._away = False
        self._ttl = ttl
        self._grace = grace
        self._clock = clock
        # No lock: no operation on these switches greenlets.
        self._entries: TTLCache[str, _Entry[T]] = TTLCache(size, ttl + grace, clock)
        self._unknown: TTLCache[str, bool] = TTLCache(size, UNKNOWN_SECONDS, clock)
        # Callers that come while a key is being read wait for the same result.
        self._reads: SingleFlight[T | None] = SingleFlight(
            self._read_and_store, interrupted=StoreError
        )
        # Grows with every eviction: a value read before it must not be stored after it.
        self._epoch = 0
        #: Lookups since the start: of an entry that is fresh or may be used; of one that was
        #: refreshed; of a key known not to exist; of a key that was read for the first time.
        self.hits = 0
        self.refreshes = 0
        self.refusals = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """Return the value, or None for an unknown key. Raises StoreError when that is unknown."""
        try:
            entry = self._entries[key]
        except KeyError:
            if key in self._unknown:
                self.refusals += 1
                return None
            self.misses += 1
            if self._recall is None:
                return self._reads.do(key)
            return self._read_or_recall(key, self._recall)
        now = self._clock()
        if now - entry.read_at < self._ttl or now < entry.retry_at:
            self.hits += 1
            return entry.value
        self.refreshes += 1
        return self._refresh(key, entry)

    def refresh(self, key: str) -> T | None:
        """Read the key from the store now, whatever is cached. Raises StoreError."""
        return self._read_and_store(key)

    def _read_or_recall(
        self, key: str, recall: Callable[[str], tuple[T, float] | None]
    ) -> T | None:
        """Read a key for the first time; while the store is away, use what other workers know."""
        epoch = self._epoch
        flight = self._reads.spawn(key)
        failure: StoreError | None = None
        try:
            return flight.get(timeout=_REFRESH_TIMEOUT_DEGRADED if self._away else _REFRESH_TIMEOUT)
        except StoreError as error:
            failure = error
        except gevent.Timeout:
            pass
        self._away = True
        recalled = recall(key)
        # A change that came meanwhile may concern the recalled value.
        if recalled is not None and epoch == self._epoch:
            value, seconds = recalled
            now = self._clock()
            entry = _Entry(value, now - self._ttl)
            entry.until = now + seconds
            self._delay_retry(entry, now)
            self._entries[key] = entry
            return value
        if failure is not None:
            raise failure
        return flight.get()

    def _refresh(self, key: str, entry: _Entry[T]) -> T | None:
        """Read an entry again; use the old one when the read fails or takes long."""
        if not self._grace:
            return self._reads.do(key)
        flight = self._reads.spawn(key)
        try:
            return flight.get(
                timeout=_REFRESH_TIMEOUT_DEGRADED if entry.backoff else _REFRESH_TIMEOUT
            )
        except (StoreError, gevent.Timeout):
            self._away = True
            now = self._clock()
            if now >= entry.until:
                if self._entries.get(key) is entry:
                    del self._entries[key]
                raise StoreError from None
            if now >= entry.retry_at:  # the first of all that waited for the read
                self._delay_retry(entry, now)
            return entry.value

    def _delay_retry(self, entry: _Entry[T], now: float) -> None:
        entry.backoff = entry.backoff or Backoff(_MIN_PAUSE, _MAX_PAUSE)
        entry.retry_at = min(now + entry.backoff.pause(), entry.until)

    def evict(self, matches: Callable[[T], bool]) -> int:
        """Forget the values that match, and all unknown keys. Returns how many values matched."""
        self._epoch += 1
        self._unknown.clear()
        self._reads.forget_all()  # a caller that comes now must not get data from before the change
        gone = [key for key, entry in list(self._entries.items()) if matches(entry.value)]
        for key in gone:
            self._entries.pop(key, None)
        return len(gone)

    def _read_and_store(self, key: str) -> T | None:
        epoch = self._epoch
        value = self._read(key)
        self._away = False
        if epoch == self._epoch:
            self._store(key, value)
        return value

    def _store(self, key: str, value: T | None) -> None:
        if value is None:
            self._entries.pop(key, None)
            self._unknown[key] = True
        else:
            self._entries[key] = _Entry(value, self._clock())
