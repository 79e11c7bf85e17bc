"""Reads of stored responses, until the ledger has decided whether they count.

A worker charges no read itself (:attr:`proxy.core.usage_event.UsageEvent.is_read`): the ledger
counts the first that reports the usage of a response whose generation did not, and charges its
token. What the ledger does not keep, limits of LLM tokens per minute and figures, is charged here
once it has counted a read of this worker.

Note: nothing here is kept over the end of the worker; a read that is undecided then is not charged.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

import gevent

from proxy.core.errors import StoreError

_log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0
#: Seconds until a read is asked for: the ledger has it by then, and the generation before it too.
_SETTLED_AFTER: Final = 3.0
#: Seconds after which it is given up: the shipper is away.
_GIVEN_UP_AFTER: Final = 60.0
_MOST_WAITING: Final = 10_000
#: Reads in one query.
_PAGE: Final = 200

E = TypeVar("E", bound="Event")

#: Project id, response id.
Name = tuple[str, str]


class Event(Protocol):
    """A usage event, as seen from here."""

    method: str
    event_id: str
    project_id: str | None
    usage_source: str
    metadata: Mapping[str, object]

    @property
    def is_read(self) -> bool: ...


class CountedReads(Protocol):
    """The store, as seen from here."""

    def readers(self, names: Sequence[Name]) -> Mapping[Name, str]:
        """Of responses that something has counted: the event id of the read that did, or empty
        where it was a generation. Raises StoreError."""
        ...


class Reads(Generic[E]):
    """One per worker. ``counted`` is called with each read that the ledger has counted."""

    def __init__(
        self,
        store: CountedReads,
        counted: Callable[[E], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        each: bool = False,
    ) -> None:
        """``each``: the ledger remembers no responses, and each read counts."""
        self._store = store
        self._each = each
        self._counted = counted
        self._clock = clock
        # When it came, and the event; the oldest first.
        self._waiting: deque[tuple[float, E]] = deque(maxlen=_MOST_WAITING)
        # While some wait: without stored responses there is nothing to wake up for.
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._closed = False

    def events(self, events: Sequence[E]) -> None:
        """All events of the worker. Neither waits nor raises."""
        for event in events:
            if event.method == "GET" and event.is_read and event.usage_source != "none":
                if self._each:
                    self._counted(event)
                else:
                    self._waiting.append((self._clock(), event))
                if self._greenlet is None and not self._closed:
                    self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        self._closed = True
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()

    def look(self) -> None:
        """Ask once for the reads that the ledger may have decided on. Never raises."""
        now = self._clock()
        due: list[tuple[float, E]] = []
        while self._waiting and self._waiting[0][0] <= now - _SETTLED_AFTER and len(due) < _PAGE:
            due.append(self._waiting.popleft())
        if not due:
            return
        try:
            readers = self._store.readers([_name(event) for _, event in due])
        except StoreError:
            readers = {}
        except Exception:  # noqa: BLE001  (this greenlet must not end)
            _log.exception("which reads of stored responses count could not be read")
            readers = {}
        for came, event in reversed(due):
            reader = readers.get(_name(event))
            if reader is None:
                if now - came < _GIVEN_UP_AFTER:
                    self._waiting.appendleft((came, event))
            elif reader == event.event_id:
                self._counted(event)

    def _run(self) -> None:
        while self._waiting:
            gevent.sleep(_INTERVAL)
            self.look()
        self._greenlet = None


def _name(event: Event) -> Name:
    return str(event.project_id), str(event.metadata["response_id"])
