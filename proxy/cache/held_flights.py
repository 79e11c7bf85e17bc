"""Flights whose clients have left, for some seconds in which a retry may take them over.

A held flight is found by its cache key and the access token of its client, and it is taken over
once. Parallel identical calls do not find it: it is held only after its reader has left.

The other workers of the node find it by a claim, under a key of its own that no request has.
"""

from collections.abc import Sequence
from typing import Any

import gevent

from proxy.cache.claims import Claim, Claims, Elsewhere, release_all
from proxy.cache.flight import Flight, FlightReader
from proxy.cache.key import CacheKey

#: The cache key, and the access token whose client has left.
Holder = tuple[CacheKey, str]


class HeldFlights:
    """The held flights of one worker."""

    def __init__(self, claims: Sequence[Claims], seconds: float) -> None:
        # Only a worker of this node can hand a response over.
        self._claims = [level for level in claims if level.streams]
        self._seconds = seconds
        # The oldest first, each with the timer that ends the hold.
        self._flights: dict[Holder, dict[Flight, Any]] = {}
        # What the other workers find: key of the claim → whom it is for, and the claim.
        self._announced: dict[CacheKey, tuple[Holder, list[Claim]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._flights.values()))

    def hold(self, holder: Holder, flight: Flight) -> None:
        """Hold a flight. It does not wait."""
        self._remove(holder, flight)
        timer = gevent.get_hub().loop.timer(self._seconds)
        self._flights.setdefault(holder, {})[flight] = timer
        timer.start(self._expire, holder, flight)
        name = _name(holder)
        if self._claims and name not in self._announced:
            announced = self._announced[name] = (holder, [])
            gevent.spawn(self._announce, name, *announced)

    def take(self, holder: Holder) -> FlightReader | None:
        """Take over the oldest flight that is held here for the holder. It does not wait."""
        for flight in list(self._flights.get(holder, ())):
            self._remove(holder, flight)
            if flight.can_be_adopted:
                return flight.adopt()
        return None

    def find(self, holder: Holder) -> Elsewhere | None:
        """Return a flight that another worker holds for the holder. It may wait."""
        for claims in self._claims:
            elsewhere = claims.find(_name(holder))
            if elsewhere is not None:
                return elsewhere
        return None

    def take_announced(self, name: CacheKey) -> FlightReader | None:
        """As :meth:`take`, for another worker, by the key of the claim that it found."""
        announced = self._announced.get(name)
        return None if announced is None else self.take(announced[0])

    def give_up_all(self) -> None:
        for holder, flights in list(self._flights.items()):
            for flight in list(flights):
                self._expire(holder, flight)

    def _announce(self, name: CacheKey, holder: Holder, taken: list[Claim]) -> None:
        for claims in self._claims:
            claim = claims.take(name)
            if claim is not None and not isinstance(claim, Elsewhere):
                taken.append(claim)
        if holder not in self._flights:
            # Meanwhile it was taken over.
            release_all(taken)

    def _expire(self, holder: Holder, flight: Flight) -> None:
        """Runs in the hub; it does not wait."""
        self._remove(holder, flight)
        if flight.can_be_adopted:
            flight.give_up()

    def _remove(self, holder: Holder, flight: Flight) -> None:
        flights = self._flights.get(holder, {})
        timer = flights.pop(flight, None)
        if timer is not None:
            timer.stop()
            timer.close()
        if flights or self._flights.pop(holder, None) is None:
            return
        _, taken = self._announced.pop(_name(holder), (holder, []))
        if taken:
            gevent.spawn(release_all, taken)


def _name(holder: Holder) -> CacheKey:
    """Return the key of the claim. Its scope is no project's: theirs have no spaces."""
    key, token = holder
    return CacheKey(f"held {token} {key.scope}", key.digest)
