"""One upstream response in flight, and the many readers of it.

A greenlet of its own, the pump, sends the request and reads the response. Readers find the chunks
in a list that they share, each at its own index, and wait for the next one together. So a reader
that leaves, even the first one, changes nothing for the others, and a reader that joins late gets
the response from its first byte.

The life of a flight:

1. The pump calls ``fetch``. Its error is the error of all readers.
2. The head is there. Where it may not be shared, the readers that only joined are dismissed.
3. Chunks. The pump reads at the pace of the fastest reader, one chunk ahead. After a chunk has gone
   to the readers that wait for it, the observers see it.
4. The end: the observers' ``finish``; now what the response cost is known, and whoever waits for
   that is called. Then the ``on_end`` callbacks in their order, which may wait. Meanwhile the
   flight can still be joined.

Memory: chunks are kept for readers that may still come, as long as they are no more than the limit
of a flight, and those of all flights no more than the limit of the :class:`FlightRoom`. Past that
no reader may join, what all readers have read is freed, and a reader that is further behind than
the limit is cut. A single reader is never behind: the pump waits for it.

Note: only :meth:`Flight.stop` throws into the pump, and only before the end.
"""

import contextvars
import logging
import random
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, TypeVar

import gevent
from gevent import Greenlet, GreenletExit
from gevent.event import Event

from proxy.cache.fetched import (
    UNKNOWN_COST,
    Cost,
    Fetched,
    FlightHead,
    NoResponse,
)
from proxy.core.errors import ClientError, ProxyError, ResponseBroken, UpstreamError
from proxy.runtime.yielding import STEP, in_turns
from proxy.upstream.body import BodyObserver

#: A reader that is behind gets several chunks in one, up to so many bytes.
MERGED_BYTES: Final = 64 * 1024
#: What a chunk costs besides its bytes: the object, and its place in the list.
_CHUNK_BYTES: Final = 64
#: By how many seconds the retries of readers that got the same error are spread.
_RETRY_SPREAD_SECONDS: Final = 5

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Abandoned(Enum):
    """What becomes of a flight whose last reader has left."""

    #: It is stopped.
    CANCEL = "cancel"
    #: The response is read to its end, for the observers.
    DRAIN = "drain"
    #: As `DRAIN`, for some seconds: a retry may take it over.
    HOLD = "hold"


class ReaderCut(UpstreamError):
    """A reader was so far behind the others that its chunks could not be kept."""

    code = "overloaded"


class FlightStopped(GreenletExit):
    """Thrown into the pump. Like the cut of a request, it is no ``Exception``."""


class FlightRoom:
    """The bytes that all flights of a worker keep, at most ``limit`` of them.

    Beyond the limit each flight still keeps the one chunk that the pump is ahead.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        #: Bytes that are kept now.
        self.used = 0
        # The flights that keep bytes or have a pump, the oldest first.
        self._flights: dict[Flight, None] = {}

    @property
    def flights(self) -> list["Flight"]:
        return list(self._flights)

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, flight: "Flight") -> None:
        self._flights[flight] = None

    def remove(self, flight: "Flight") -> None:
        self._flights.pop(flight, None)

    def make(self) -> None:
        """Free bytes until the limit holds: first what is kept for later readers, then what is
        kept for the readers that are furthest behind."""
        if self.used <= self._limit:
            return
        for flight in self.flights:
            flight.stop_sharing()
            if self.used <= self._limit:
                return
        while self.used > self._limit:
            behind = [reader for flight in self._flights for reader in flight.behind()]
            if not behind:
                return
            max(behind, key=FlightReader.lag).cut()


class FlightReader:
    """One reader of a flight: a :class:`proxy.upstream.body.Source`.

    It belongs to one greenlet, which may be interrupted at any wait. :meth:`close` must be called,
    however the request ends.
    """

    __slots__ = ("_flight", "_index", "_is_cut", "_is_dismissed", "_offset", "owns")

    def __init__(self, flight: "Flight", owns: bool) -> None:
        self._flight = flight
        #: Whether the flight is this reader's own: it began it, or took it over.
        self.owns = owns
        # The chunk to read next, and the bytes before it.
        self._index = 0
        self._offset = 0
        self._is_cut = False
        self._is_dismissed = False

    @property
    def flight(self) -> "Flight":
        return self._flight

    @property
    def is_settled(self) -> bool:
        """Whether :meth:`head` would return or raise without waiting."""
        return self._is_dismissed or self._flight.head is not None or self._flight.ended

    def head(self) -> FlightHead | None:
        """Wait for the head of the response.

        Returns None when this reader gets no response here: it may not be shared, or its owner is
        gone. The reader is closed then, and its request goes its own way. Raises what ``fetch``
        raised, as an exception of this reader's own.
        """
        flight = self._flight
        while not self._is_dismissed:
            if flight.head is not None:
                return flight.head
            if flight.ended:
                raise flight.failure(self)
            flight.wait()
        return None

    @property
    def ready(self) -> bool:
        """Whether :meth:`read` would return without waiting."""
        return self._is_cut or self._index < self._flight.end or self._flight.ended

    @property
    def complete(self) -> bool:
        """Whether the last chunk of a complete response has been read."""
        flight = self._flight
        return flight.complete and self._index == flight.end and not self._is_cut

    def read(self) -> bytes:
        """Return what has arrived, ``b""`` at the end of the response.

        Raises UpstreamError when the response broke off, or this reader was cut.
        """
        while (chunk := self._next()) is None:
            self._flight.wait()
        return chunk

    def read_within(self, seconds: float) -> bytes | None:
        """As :meth:`read`; None when nothing arrived in that time."""
        while (chunk := self._next()) is None:
            if not self._flight.wait(seconds):
                return None
        return chunk

    def close(self) -> None:
        """Leave the flight. Idempotent; it does not wait."""
        self._flight.leave(self)

    @property
    def index(self) -> int:
        return self._index

    def lag(self) -> int:
        """Return the bytes that have arrived and that this reader has not read."""
        return self._flight.total - self._offset

    def cut(self) -> None:
        """Break this reader's response off: its chunks are freed."""
        self._is_cut = True
        self._flight.leave(self)

    def dismiss(self) -> None:
        """Leave without a response: :meth:`head` returns None."""
        self._is_dismissed = True
        self._flight.leave(self)

    def _next(self) -> bytes | None:
        if self._is_cut:
            raise ReaderCut("The response was read too slowly to be shared.")
        flight = self._flight
        if self._index < flight.end:
            number, chunk = flight.chunks_from(self._index)
            self._index += number
            self._offset += len(chunk) + number * _CHUNK_BYTES
            flight.taken(self._index)
            return chunk
        if not flight.ended:
            return None
        if flight.complete:
            return b""
        raise flight.failure(self)


class Flight:
    """One upstream response: its pump, its chunks, its readers.

    ``limit`` is the bytes that are kept for readers. ``shared`` means that others may join.
    """

    def __init__(self, room: FlightRoom, *, limit: int, shared: bool = True) -> None:
        self._room = room
        self._limit = limit
        self._shared = shared
        self._adoptable = False
        self._on_end: list[Callable[[Flight], object]] = []
        # Called as soon as the cost is known. None: it is.
        self._when_settled: list[Callable[[], object]] | None = []
        self._on_abandoned: Callable[[Flight], Abandoned] = lambda _: Abandoned.CANCEL
        self.head: FlightHead | None = None
        #: Whether all of the response has been read.
        self.complete = False
        #: Whether nothing more will be read.
        self.ended = False
        #: What broke the response, if anything did.
        self.error: ProxyError | None = None
        #: Whether a retry has taken it over.
        self.adopted = False
        #: What the response cost; known once it has been read to its end.
        self.cost: Cost = UNKNOWN_COST
        #: The bytes that have arrived, with what their chunks cost.
        self.total = 0
        #: The index behind the last chunk that has arrived.
        self.end = 0
        # The chunks that are kept, and the index of the first of them.
        self._chunks: list[bytes] = []
        self._first = 0
        self._kept = 0
        # The highest index that any reader has reached.
        self._taken = 0
        self._readers: dict[FlightReader, None] = {}
        # Made by a reader that waits, set by the pump with whatever is new.
        self._news: Event | None = None
        # Set by readers: the pump has a reason to look again.
        self._demand = Event()
        self._observers: Sequence[BodyObserver] = ()
        self._pending = b""
        # Whether `on_end` has run.
        self._is_over = False
        self._goes_on_alone = False
        self._stop: ProxyError | None = None
        self._pump: Greenlet[[Callable[[], Fetched]], None] | None = None
        room.add(self)

    def open(self) -> FlightReader:
        """Return the reader of the request that begins the flight. :meth:`start` follows."""
        return self._add_reader(owns=True)

    def start(
        self,
        fetch: Callable[[], Fetched],
        *,
        adoptable: bool = False,
        on_end: Sequence[Callable[["Flight"], object]] = (),
        on_abandoned: Callable[["Flight"], Abandoned] = lambda _: Abandoned.CANCEL,
    ) -> None:
        """Start the pump.

        ``adoptable`` means that a retry of the flight's client may take it over, after that client
        has left. ``on_end`` are called in the pump, once, with this flight, after the observers'
        ``finish``; they may wait. ``on_abandoned`` is called when the last reader leaves before it
        has all of the response; it does not wait.
        """
        self._adoptable = adoptable
        self._on_end += on_end
        self._on_abandoned = on_abandoned
        self._pump = Greenlet(self._run, fetch)
        # Log lines of the pump show the request that began the flight.
        self._pump.gr_context = contextvars.copy_context()
        self._pump.start()

    @property
    def joinable(self) -> bool:
        """Whether a further reader would get all of the response, as far as is known."""
        if self.ended and self.head is not None and not self.head.joinable_at_end:
            return False
        return self._shared and not self._broken

    def join(self) -> FlightReader:
        """Return a further reader of a :attr:`joinable` flight."""
        return self._add_reader(owns=False)

    @property
    def can_be_adopted(self) -> bool:
        """Whether a reader that takes over would get all of the response, as far as is known."""
        return self._adoptable and not self._broken and not self._readers and not self.adopted

    def adopt(self) -> FlightReader:
        """Take over a flight that :attr:`can_be_adopted`. This happens once."""
        self.adopted = True
        return self._add_reader(owns=True)

    def give_up(self) -> None:
        """Keep nothing for a retry any longer, and stop if nobody reads."""
        self._adoptable = False
        if not self._readers:
            self.stop()
        self._tidy()

    def stop(self, error: ProxyError | None = None) -> None:
        """Stop reading; readers get `error`. Does nothing after the end. It does not wait."""
        if self._stop is None and not self.ended:
            self._stop = error or ResponseBroken("The response was stopped.")
            # From the hub, so that the pump cannot have moved on to its end meanwhile.
            gevent.get_hub().loop.run_callback(self._throw_stop)

    @property
    def is_busy(self) -> bool:
        """Whether anything is still done here: for readers, or for the callbacks at the end."""
        return not self._is_over or bool(self._readers)

    def wait_until_over(self, seconds: float | None = None) -> bool:
        """Wait until the `on_end` callbacks have run. Returns whether they have."""
        if self._pump is not None:
            self._pump.join(seconds)
        return self._is_over

    @property
    def broke_off(self) -> bool:
        """Whether the upstream has broken the response off."""
        return self.head is not None and self.error is not None and self.error is not self._stop

    def when_settled(self, callback: Callable[[], object]) -> bool:
        """Call `callback` once the observers have seen all, and the cost is known: before the
        `on_end` callbacks. Returns False if that moment has passed."""
        if self._when_settled is None:
            return False
        self._when_settled.append(callback)
        return True

    @property
    def readers(self) -> int:
        return len(self._readers)

    def stop_sharing(self) -> None:
        """Share with no further reader, and free what all readers have read."""
        self._shared = False
        if self._adoptable:
            self.give_up()
        self._free()

    def behind(self) -> list[FlightReader]:
        """Return the readers for which more is kept than the one chunk that the pump is ahead."""
        return [reader for reader in self._readers if reader.index < self.end - 1]

    # What readers call.

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until there is something new, at most so many seconds. Returns whether there is."""
        if self._news is None:
            self._news = Event()
        return bool(self._news.wait(seconds))

    def chunks_from(self, index: int) -> tuple[int, bytes]:
        """Return how many chunks, and their bytes: at most :data:`MERGED_BYTES`, or one chunk."""
        chunks, at = self._chunks, index - self._first
        chunk = chunks[at]
        behind, size = at + 1, len(chunk)
        while behind < len(chunks) and size + len(chunks[behind]) <= MERGED_BYTES:
            size += len(chunks[behind])
            behind += 1
        if behind == at + 1:
            return 1, chunk
        return behind - at, b"".join(chunks[at:behind])

    def taken(self, index: int) -> None:
        """Note that a reader has read all before `index`."""
        if index > self._taken:
            self._taken = index
            if index == self.end:
                self._demand.set()
        if len(self._readers) == 1:
            self._free()

    def leave(self, reader: FlightReader) -> None:
        """Remove a reader. Idempotent."""
        if self._readers.pop(reader, self) is self:
            return
        if self._readers:
            if reader.index == self._first:
                self._free()
        elif reader.complete:
            self._adoptable = False
        elif not self._broken:
            self._abandon()
        self._demand.set()
        self._tidy()

    def failure(self, reader: FlightReader) -> ProxyError:
        """Return the exception that ended the flight, as one of this reader's own.

        Readers that got the same error would all come back in the same second, and each retry may
        be paid for: for readers that only joined, ``retry_after`` is spread.
        """
        error = self.error or ResponseBroken("The response was stopped.")
        # In the body only an error of the upstream, or of the upload, breaks a response off.
        known = self.head is None or isinstance(error, UpstreamError | ClientError)
        kind = type(error) if known else UpstreamError
        # A copy: what is raised twice shows the frames of both. Its `__init__` is not called.
        own = kind.__new__(kind, *error.args)
        own.__dict__.update(error.__dict__)
        own.code = error.code
        own.__cause__ = error.__cause__ or error
        if not reader.owns and own.status >= 500:
            spread = random.randint(0, _RETRY_SPREAD_SECONDS)  # noqa: S311  (no secret)
            own.retry_after = (own.retry_after or 1) + spread
        return own

    # The pump.

    def _run(self, fetch: Callable[[], Fetched]) -> None:
        fetched: Fetched | None = None
        try:
            if self._stop is not None:
                raise FlightStopped
            fetched = fetch()
            self._observers = fetched.observers
            self._relay(fetched)
        except FlightStopped:
            self.error = self._stop
        except NoResponse:
            self.ended = True
            for reader in list(self._readers):
                reader.dismiss()
        except ProxyError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  (a defect; readers get an error)
            _log.error("flight: the pump failed", exc_info=error)
            self.error = self._defect(error)
        finally:
            self._finish(fetched)

    def _defect(self, error: Exception) -> ProxyError:
        """Return the error for a defect of the proxy: a 500, or a response that breaks off."""
        failure = ProxyError() if self.head is None else ResponseBroken()
        failure.__cause__ = error
        return failure

    def _relay(self, fetched: Fetched) -> None:
        source = fetched.source
        self._take_head(fetched.head)
        if not source.ready:
            self._wake_readers()
        # A first chunk that came with the head goes out together with it.
        while True:
            chunk = source.read()
            if chunk:
                self._append(chunk)
            if not chunk or source.complete:
                self.complete = self.ended = True
            if self._wake_readers():
                gevent.sleep(0)  # they send it before the observers work on it
            self._feed(fetched.inflated)
            if self.complete:
                return
            self._free()
            while not self._is_wanted():
                self._demand.clear()
                self._demand.wait()

    def _is_wanted(self) -> bool:
        """Whether to read the next chunk: the fastest reader has all so far, or nobody reads and
        the rest is for the observers."""
        if self._readers:
            return self._taken >= self.end
        return self._goes_on_alone

    def _take_head(self, head: FlightHead) -> None:
        self.head = head
        self._adoptable = self._adoptable and head.adoptable
        if head.shareable or not self._shared:
            return
        self._shared = False
        for reader in list(self._readers):
            if not reader.owns:
                reader.dismiss()

    def _append(self, chunk: bytes) -> None:
        self._pending = chunk
        self._chunks.append(chunk)
        cost = len(chunk) + _CHUNK_BYTES
        self.end += 1
        self.total += cost
        self._add_kept(cost)
        if self._kept > self._limit:
            self.stop_sharing()
            if self._kept > self._limit:
                self._cut_readers()
        self._room.make()

    def _cut_readers(self) -> None:
        for reader in self.behind():
            if reader.lag() > self._limit:
                reader.cut()

    def _feed(self, inflated: bool) -> None:
        chunk, self._pending = self._pending, b""
        if not chunk:
            return
        if inflated or len(chunk) > STEP:
            in_turns(step for observer in self._observers for step in observer.steps(chunk))
        else:
            for observer in self._observers:
                observer.feed(chunk)

    def _finish(self, fetched: Fetched | None) -> None:
        # From here on nothing is thrown into the pump.
        self.ended = True
        if self.error is not None:
            self.complete = False
        self._wake_readers()
        if fetched is not None and not self.complete:
            self._call(fetched.close)
        pending, self._pending = self._pending, b""
        for observer in self._observers:
            if pending:
                self._call(observer.feed, pending)
            self._call(observer.finish, self.complete)
        if fetched is not None and self.complete:
            self.cost = self._call(fetched.cost) or UNKNOWN_COST
            self._call(fetched.close)
        waiting, self._when_settled = self._when_settled or [], None
        for settled in waiting:
            self._call(settled)
        for callback in self._on_end:
            self._call(callback, self)
        # They may hold much, and readers may take their time.
        self._observers, self._on_end = (), []
        self._is_over = True
        self._shared = False
        self._free()
        self._tidy()

    def _call(self, callback: Callable[..., T], *arguments: object) -> T | None:
        """Call what has to be called at the end, whatever the call before it did."""
        try:
            return callback(*arguments)
        except Exception as error:  # noqa: BLE001  (a defect; the others are called)
            _log.error("flight: a callback failed", exc_info=error)
            return None

    def _throw_stop(self) -> None:
        """Runs in the hub, so throwing switches at once."""
        if self._pump is not None and not self.ended:
            self._pump.throw(FlightStopped())

    def _wake_readers(self) -> bool:
        """Wake the readers that wait. Returns whether there are any."""
        news, self._news = self._news, None
        if news is None:
            return False
        news.set()
        return True

    # Readers and memory.

    def _add_reader(self, owns: bool) -> FlightReader:
        reader = FlightReader(self, owns)
        self._readers[reader] = None
        return reader

    def _abandon(self) -> None:
        """Decide what happens, now that nobody reads."""
        choice = self._on_abandoned(self)
        self._goes_on_alone = choice is Abandoned.DRAIN
        if choice is Abandoned.HOLD and self.can_be_adopted:
            self._goes_on_alone = True
            return
        self._adoptable = False
        self._free()
        if not self._goes_on_alone:
            self.stop()

    @property
    def _broken(self) -> bool:
        return self._stop is not None or (self.ended and not self.complete)

    def _add_kept(self, size: int) -> None:
        self._kept += size
        self._room.used += size

    def _free(self) -> None:
        """Free the chunks that no reader will ask for."""
        if self._shared or self._adoptable:
            return
        lowest = min((reader.index for reader in self._readers), default=self.end)
        number = lowest - self._first
        if number > 0:
            gone = self._chunks[:number]
            del self._chunks[:number]
            self._first = lowest
            self._add_kept(-sum(map(len, gone)) - number * _CHUNK_BYTES)

    def _tidy(self) -> None:
        """Leave the room once nothing happens here any more and nobody comes back."""
        if self._is_over and not self._readers and not self.can_be_adopted:
            self._adoptable = False
            self._free()
            self._room.remove(self)
