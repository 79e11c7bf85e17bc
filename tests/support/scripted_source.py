"""A response whose chunks come when the test says so, and how its readers get it."""

from collections.abc import Callable, Iterator

import gevent
from gevent.queue import Empty, Queue

from proxy.cache.fetched import Fetched, FlightHead
from proxy.cache.flight import FlightReader
from proxy.cache.flights import Flights
from proxy.cache.key import CacheKey

#: Behind the last chunk: the end is known only with a further read.
END = b""
JSON_LINE = ("Content-Type", "application/json")


class ScriptedSource:
    """A :class:`proxy.upstream.body.Source`. `reads` counts the calls that the pump makes."""

    def __init__(self, *items: bytes | BaseException, last: int | None = None) -> None:
        """`last` is the number of the chunk that is known to be the last one, if any is."""
        self._items: Queue[bytes | BaseException] = Queue(items=items)
        self._last = last
        self._number = 0
        self.reads = 0
        self.complete = False
        self.closed = 0

    def put(self, *items: bytes | BaseException) -> None:
        for item in items:
            self._items.put(item)

    @property
    def ready(self) -> bool:
        return not self._items.empty()

    def read(self) -> bytes:
        self.reads += 1
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        self._number += 1
        self.complete = self._number == self._last
        return item

    def read_within(self, seconds: float) -> bytes | None:
        try:
            item = self._items.get(timeout=seconds)
        except Empty:
            return None
        self._items.queue.appendleft(item)
        return self.read()

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """An observer that keeps what it sees."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.ends: list[bool] = []

    def feed(self, chunk: bytes) -> None:
        self.chunks.append(chunk)

    def steps(self, chunk: bytes) -> Iterator[None]:
        self.feed(chunk)
        yield

    def finish(self, complete: bool) -> None:
        self.ends.append(complete)


def head(*, shareable: bool = True, adoptable: bool = True, status: int = 200) -> FlightHead:
    return FlightHead(
        status=status,
        reason="OK",
        headers=[JSON_LINE],
        shareable=shareable,
        adoptable=adoptable,
    )


def fetched(
    source: ScriptedSource, *observers: Recorder, shareable: bool = True, adoptable: bool = True
) -> Fetched:
    return Fetched(head(shareable=shareable, adoptable=adoptable), source, observers, source.close)


def settle() -> None:
    """Let every greenlet run that can."""
    for _ in range(20):
        gevent.sleep(0)


def body(reader: FlightReader) -> bytes:
    """Read all of the response."""
    found = []
    while chunk := reader.read():
        found.append(chunk)
    return b"".join(found)


def served(flights: Flights, key: CacheKey, fetch: Callable[[], Fetched]) -> bytes:
    """Return the response as a gateway gets it: it asks again, until there is one."""
    while True:
        reader = flights.join_or_begin(key, fetch)
        try:
            if reader.head() is not None:
                return body(reader)
        finally:
            reader.close()
