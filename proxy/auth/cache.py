"""What the store said about tokens: for a while taken as truth, for longer as a fallback.

An entry is fresh for ``ttl`` seconds. After that it is asked for again, once for all that wait for
it; if the store does not answer, the old one goes on being used for ``grace`` seconds more, with
growing pauses between the tries. A token that does not exist is remembered briefly, so that a flood
of bad tokens is not a flood of queries.

The thing to get wrong: a TTLCache forgets, so its time is ``ttl`` plus ``grace`` and the age is
kept beside the entry. And an answer that was on its way while its entry was evicted is old: it must
not be kept.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import gevent
from cachetools import TTLCache
from gevent.event import AsyncResult

from proxy.core.errors import StoreError

T = TypeVar("T")

#: How long "there is no such token" is believed; a token minted meanwhile waits at most that long.
UNKNOWN_SECONDS: Final = 2.0
#: How long a request waits for a refresh before it goes on with what was known; and how long when
#: the last one failed or was late, for then the store is away, and each token is asked for anew.
_PATIENCE: Final = 0.5
_LITTLE_PATIENCE: Final = 0.05
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0


class _Entry(Generic[T]):
    __slots__ = ("pause", "read_at", "retry_at", "until", "value")

    def __init__(self, value: T, read_at: float) -> None:
        self.value = value
        # Monotonic seconds: when the store said so, and before when it is not asked again.
        self.read_at = read_at
        self.retry_at = 0.0
        self.pause = 0.0
        # When it may not be used any more, if that comes before its end in the cache.
        self.until = math.inf


class GrantCache(Generic[T]):
    """``read(key)`` asks the store: a value, None for unknown, or StoreError."""

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
        """``ttl`` and ``grace`` in seconds; ``size`` bounds the known and the unknown alike.

        ``recall(key)`` is asked for a key that is not here while the store is away: a value that
        somebody else knows and the seconds for which it may be used, or None. It does not raise.
        """
        self._read = read
        self._recall = recall
        # Whether the last read failed, or was late.
        self._away = False
        self._ttl = ttl
        self._grace = grace
        self._clock = clock
        # Nothing in these switches greenlets, so there is no lock.
        self._entries: TTLCache[str, _Entry[T]] = TTLCache(size, ttl + grace, clock)
        self._unknown: TTLCache[str, bool] = TTLCache(size, UNKNOWN_SECONDS, clock)
        # Reads under way, by key: whoever comes meanwhile waits for the same answer.
        self._flights: dict[str, AsyncResult[T | None]] = {}
        # Grows with every eviction: what was read before it must not be kept after it.
        self._epoch = 0
        #: Lookups since the start: answered from what is fresh or good enough; asked for again;
        #: known not to exist; asked for the first time.
        self.hits = 0
        self.refreshes = 0
        self.refusals = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> T | None:
        """The value, or None: there is no such token. StoreError: not known, and not to be had."""
        try:
            entry = self._entries[key]
        except KeyError:
            if key in self._unknown:
                self.refusals += 1
                return None
            self.misses += 1
            return self._fetch(key) if self._recall is None else self._first(key, self._recall)
        now = self._clock()
        if now - entry.read_at < self._ttl or now < entry.retry_at:
            self.hits += 1
            return entry.value
        self.refreshes += 1
        return self._refresh(key, entry)

    def renew(self, key: str) -> T | None:
        """What the store says now, whatever is known. StoreError."""
        return self._fly(key, AsyncResult())

    def _first(self, key: str, recall: Callable[[str], tuple[T, float] | None]) -> T | None:
        """Ask for the first time, but go on with what others know when there is no answer."""
        epoch = self._epoch
        flight = self._flight(key)
        failure: StoreError | None = None
        try:
            return flight.get(timeout=_LITTLE_PATIENCE if self._away else _PATIENCE)
        except StoreError as error:
            failure = error
        except gevent.Timeout:
            pass
        self._away = True
        recalled = recall(key)
        # What changed meanwhile may be what is recalled.
        if recalled is not None and epoch == self._epoch:
            value, seconds = recalled
            now = self._clock()
            entry = _Entry(value, now - self._ttl)
            entry.until = now + seconds
            entry.pause = _FIRST_PAUSE
            entry.retry_at = min(now + entry.pause, entry.until)
            self._entries[key] = entry
            return value
        if failure is not None:
            raise failure
        return flight.get()

    def _flight(self, key: str) -> "AsyncResult[T | None]":
        """The read under way for this key, or a new one in a greenlet of its own."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = AsyncResult()
            gevent.spawn(self._fly_quietly, key, flight)
        return flight

    def _refresh(self, key: str, entry: _Entry[T]) -> T | None:
        """Ask again, but go on with the old one when the answer fails or is long in coming."""
        if not self._grace:
            return self._fetch(key)
        flight = self._flight(key)
        try:
            return flight.get(timeout=_LITTLE_PATIENCE if entry.pause else _PATIENCE)
        except (StoreError, gevent.Timeout):
            self._away = True
            now = self._clock()
            if now >= entry.until:
                if self._entries.get(key) is entry:
                    del self._entries[key]
                raise StoreError from None
            if now >= entry.retry_at:  # of all that waited for it, the first one
                entry.pause = min(max(_FIRST_PAUSE, 2 * entry.pause), _LONGEST_PAUSE)
                entry.retry_at = min(now + entry.pause, entry.until)
            return entry.value

    def evict(self, matches: Callable[[T], bool]) -> int:
        """Forget what ``matches``, and all that is unknown; returns how many were forgotten."""
        self._epoch += 1
        self._unknown.clear()
        self._flights.clear()  # who comes now must not get an answer from before the change
        gone = [key for key, entry in list(self._entries.items()) if matches(entry.value)]
        for key in gone:
            self._entries.pop(key, None)
        return len(gone)

    def _fetch(self, key: str) -> T | None:
        flight = self._flights.get(key)
        if flight is not None:
            return flight.get()
        flight = self._flights[key] = AsyncResult()
        return self._fly(key, flight)

    def _fly_quietly(self, key: str, flight: "AsyncResult[T | None]") -> None:
        """In a greenlet of its own; whoever waits is told, and nobody else."""
        with contextlib.suppress(Exception):
            self._fly(key, flight)

    def _fly(self, key: str, flight: "AsyncResult[T | None]") -> T | None:
        epoch = self._epoch
        try:
            value = self._read(key)
        except BaseException as error:
            self._land(key, flight)
            # Whoever waits gets the store's failure; a kill of this greenlet is none of theirs.
            flight.set_exception(error if isinstance(error, Exception) else StoreError())
            raise
        self._land(key, flight)
        self._away = False
        if epoch == self._epoch:
            self._keep(key, value)
        flight.set(value)
        return value

    def _land(self, key: str, flight: "AsyncResult[T | None]") -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _keep(self, key: str, value: T | None) -> None:
        if value is None:
            self._entries.pop(key, None)
            self._unknown[key] = True
        else:
            self._entries[key] = _Entry(value, self._clock())
