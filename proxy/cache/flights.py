"""The flights of one worker, by their cache key.

A request that may share its response joins the flight of its key, or begins it. A request that may
not begins a flight of its own, which nobody joins: it still outlives its client where the client's
retry may take it over.

A response that proved to be private, by its head, leaves a marker at its key. Requests that come
while the marker is there do not wait for a head that they may not have: without it they would be
served one after the other.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gevent
from cachetools import TTLCache

from proxy.cache.claims import Claim, Claims, Elsewhere, release_all
from proxy.cache.fetched import Fetched, NoResponse, NotShared
from proxy.cache.flight import Abandoned, Flight, FlightReader, FlightRoom
from proxy.cache.held_flights import HeldFlights
from proxy.cache.key import CacheKey
from proxy.core.errors import ProxyError

#: What the flights of a worker keep together, in bytes.
ROOM_BYTES: Final = 64 * 1024 * 1024
#: Seconds for which an abandoned flight waits for its client's retry.
HOLD_SECONDS: Final = 10.0
#: Seconds for which the requests of a key do not wait, after its response was private.
PRIVATE_SECONDS: Final = 30.0
#: Markers of private responses. Beyond that, the oldest is forgotten.
_MAX_MARKERS: Final = 8192


@dataclass(frozen=True, slots=True)
class FlightFigures:
    """What the flights of a worker are at one moment."""

    flights: int
    readers: int
    #: Bytes that are kept for readers.
    size: int


class Flights:
    """The flights of one worker."""

    def __init__(
        self,
        *,
        entry_bytes: int,
        room_bytes: int = ROOM_BYTES,
        hold_seconds: float = HOLD_SECONDS,
        private_seconds: float = PRIVATE_SECONDS,
        claims: Sequence[Claims] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the table.

        Args:
            entry_bytes: What one flight keeps for its readers, in bytes.
            room_bytes: What all flights of the worker keep.
            hold_seconds: How long a held flight waits for a retry.
            private_seconds: How long the marker of a private response stays.
            claims: Where other workers are told of the flights of this one: first those of the
                node, then those of other nodes.
            clock: Seconds, for the markers.
        """
        self._entry_bytes = entry_bytes
        self._claims = tuple(claims)
        self._room = FlightRoom(room_bytes)
        self._shared: dict[CacheKey, Flight] = {}
        # The keys whose last response was private.
        self._private: TTLCache[CacheKey, None] = TTLCache(_MAX_MARKERS, private_seconds, clock)
        self._is_stopping = False
        self._held = HeldFlights(self._claims, hold_seconds)
        for level in self._claims:
            level.serve(self._join_for_others)

    def join_here(self, key: CacheKey) -> FlightReader | None:
        """Return a reader of this worker's flight of the key, or None. It does not wait."""
        flight = self._shared.get(key)
        if flight is None or not flight.joinable:
            return None
        return flight.join()

    def join(self, key: CacheKey, *, marked: bool = True) -> FlightReader | None:
        """Return a reader of the flight of this key, wherever it is, or None.

        With other workers it may wait, but not for a response. `marked` is as in
        :meth:`join_or_begin`.
        """
        reader = self.join_here(key)
        if reader is not None or self.is_private(key):
            return reader
        for claims in self._claims:
            elsewhere = claims.find(key)
            if elsewhere is not None:
                return self.join_here(key) or self._follow(key, elsewhere, marked)
        return None

    def join_or_begin(
        self,
        key: CacheKey,
        fetch: Callable[[], Fetched],
        *,
        shared: bool = True,
        marked: bool = True,
        holder: str = "",
        on_end: Sequence[Callable[[Flight], object]] = (),
        on_abandoned: Callable[[Flight], Abandoned] = lambda _: Abandoned.CANCEL,
    ) -> FlightReader:
        """Return a reader of the flight of this key, or of a new one, which the reader `owns`.

        With other workers it may wait, but not for a response. Where the reader's `head()` is None,
        call this again, after a look at the cache.

        Args:
            key: The cache key.
            fetch: Sends the request. Called in the pump of a new flight, and not otherwise.
            shared: Whether others may join, and whether this request may join others.
            marked: Whether a private response leaves a marker at this key.
            holder: The access token whose retry may take the flight over; "": no retry may.
            on_end: Called in the pump of a new flight after its end, in this order. They may wait.
                Until they have returned the flight can be joined.
            on_abandoned: Decides what happens when the last reader of a new flight has left.
        """
        shared = shared and not self.is_private(key)
        if shared and (reader := self.join_here(key)) is not None:
            return reader
        flight = Flight(self._room, limit=self._entry_bytes, shared=shared)
        reader = flight.open()
        held: list[Claim] = []
        if shared:
            # Others join it from now on, also while it is claimed.
            self._shared[key] = flight
            try:
                elsewhere = self._claim(key, held)
            except BaseException:
                # This request is interrupted. Those that have joined meanwhile go their own way.
                reader.close()
                self._start(flight, key, _nowhere, held)
                raise
            if elsewhere is not None:
                reader.owns = False
                self._start(flight, key, self._followed(key, elsewhere, marked), held)
                return reader

        def fetch_and_mark() -> Fetched:
            fetched = fetch()
            if shared and not fetched.head.shareable:
                if marked:
                    self.mark_private(key)
                release_all(held)
            return fetched

        def decide(flight: Flight) -> Abandoned:
            if self._is_stopping:
                return Abandoned.CANCEL
            choice = on_abandoned(flight)
            if choice is Abandoned.HOLD and flight.can_be_adopted:
                self._held.hold((key, holder), flight)
            return choice

        self._start(
            flight,
            key,
            fetch_and_mark,
            held,
            adoptable=bool(holder),
            on_end=on_end,
            on_abandoned=decide,
        )
        return reader

    def adopt(self, key: CacheKey, holder: str) -> FlightReader | None:
        """Take over the oldest held flight of this key and access token, from its first byte.

        Returns None where there is none. Each flight is taken over once, also by a request in
        another worker of the node. It may wait, but not for a response.
        """
        reader = self._held.take((key, holder))
        if reader is not None:
            return reader
        elsewhere = self._held.find((key, holder))
        if elsewhere is None:
            return None
        flight = Flight(self._room, limit=self._entry_bytes, shared=False)
        reader = flight.open()
        flight.start(elsewhere.fetch)
        return reader

    def is_private(self, key: CacheKey) -> bool:
        """Return whether the last response of this key could not be shared."""
        return key in self._private

    def mark_private(self, key: CacheKey) -> None:
        """Let the next requests of this key go their own way."""
        self._private[key] = None

    def figures(self) -> FlightFigures:
        flights = self._room.flights
        return FlightFigures(
            len(flights), sum(flight.readers for flight in flights), self._room.used
        )

    @property
    def is_busy(self) -> bool:
        """Whether responses are still read here: for the observers of requests that have ended, or
        for other workers, also when no client of this worker is left."""
        return any(flight.is_busy for flight in self._room.flights)

    def cut(self, error: ProxyError | None = None) -> None:
        """Stop all flights; readers that are still there get `error`. It does not wait.

        Flights that begin later are stopped when their last reader leaves.
        """
        self._is_stopping = True
        self._held.give_up_all()
        for flight in self._room.flights:
            flight.stop(error)

    def stop(self, error: ProxyError | None = None, *, seconds: float = 5.0) -> None:
        """As :meth:`cut`, then wait until each flight has called its `on_end`, at most so long."""
        flights_left = self._room.flights
        self.cut(error)
        with gevent.Timeout(seconds, False):  # type: ignore[arg-type]  # False: it ends silently
            for flight in flights_left:
                flight.wait_until_over()
        for claims in self._claims:
            claims.close()

    def _join_for_others(self, key: CacheKey) -> FlightReader | None:
        """Return a reader for another worker, of a flight that it has found by a claim."""
        if self._is_stopping:
            return None
        return self.join_here(key) or self._held.take_announced(key)

    def _claim(self, key: CacheKey, held: list[Claim]) -> Elsewhere | None:
        """Claim the key at each level, and collect the claims in `held`. Returns the flight of the
        first level at which another worker has claimed it."""
        for claims in self._claims:
            taken = claims.take(key)
            if isinstance(taken, Elsewhere):
                return taken
            if taken is not None:
                held.append(taken)
        return None

    def _follow(self, key: CacheKey, elsewhere: Elsewhere, marked: bool) -> FlightReader:
        """Return a reader of a new flight that follows another worker's."""
        flight = self._shared[key] = Flight(self._room, limit=self._entry_bytes)
        reader = flight.open()
        reader.owns = False
        self._start(flight, key, self._followed(key, elsewhere, marked), [])
        return reader

    def _followed(self, key: CacheKey, elsewhere: Elsewhere, marked: bool) -> Callable[[], Fetched]:
        def fetch() -> Fetched:
            try:
                return elsewhere.fetch()
            except NotShared:
                if marked:
                    self.mark_private(key)
                raise

        return fetch

    def _start(
        self,
        flight: Flight,
        key: CacheKey,
        fetch: Callable[[], Fetched],
        held: list[Claim],
        on_end: Sequence[Callable[[Flight], object]] = (),
        **options: Any,
    ) -> None:
        def forget(flight: Flight) -> None:
            release_all(held)
            if self._shared.get(key) is flight:
                del self._shared[key]

        flight.start(fetch, on_end=(*on_end, forget), **options)


def _nowhere() -> Fetched:
    raise NoResponse
