"""Reads of stored responses, until the ledger has decided whether they count.

A worker charges no read itself (:attr:`proxy.core.usage_event.UsageEvent.is_read`). The ledger
counts the first read that reports the usage of a response whose generation did not report it, and
charges the token of that read. The limits of LLM tokens per minute and the metrics, which the
ledger does not keep, are charged here once the ledger has counted a read of this worker.

Note: nothing here outlives the worker. A read that is undecided then is not charged.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, Protocol, TypeVar

from proxy.core.errors import StoreError
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0
#: Seconds until the ledger is asked about a read: by then it has the read and the generation.
_SETTLED_AFTER_SECONDS: Final = 3.0
#: Seconds after which a read is dropped: the shipper does not run.
_GIVEN_UP_AFTER_SECONDS: Final = 60.0
_MAX_WAITING: Final = 10_000
#: Reads in one query.
_MAX_PAGE: Final = 200

E = TypeVar("E", bound="Event")

#: Project id, response id.
Name = tuple[str, str]


class Event(Protocol):
    """The fields of a usage event that show whether it is a read, and of which response."""

    method: str
    event_id: str
    project_id: str | None
    usage_source: str
    metadata: Mapping[str, object]

    @property
    def is_read(self) -> bool: ...


class CountedReads(Protocol):
    """The ledger's decisions about stored responses."""

    def readers(self, names: Sequence[Name]) -> Mapping[Name, str]:
        """Return, for each response that is counted, the event id of the read that was counted.

        The id is empty where the generation was counted. Raises StoreError.
        """
        ...


class Reads(Generic[E]):
    """Reads of this worker that the ledger has not decided on. One per worker."""

    def __init__(
        self,
        store: CountedReads,
        counted: Callable[[E], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        each: bool = False,
    ) -> None:
        """Create the collection.

        Args:
            store: Returns the ledger's decisions.
            counted: Called with each read that the ledger has counted.
            clock: Monotonic seconds.
            each: Whether each read counts, because the ledger remembers no responses.
        """
        self._store = store
        self._each = each
        self._counted = counted
        self._clock = clock
        # Monotonic time of arrival, and the event. Oldest first.
        self._waiting: deque[tuple[float, E]] = deque(maxlen=_MAX_WAITING)
        # Runs only while reads wait: without stored responses there is nothing to wake up for.
        self._task = PeriodicTask(
            self.ask_ledger,
            lambda: _INTERVAL if self._waiting else None,
            failure="stored reads: asking the ledger failed",
            log=_log,
            first_pause=lambda: _INTERVAL,
        )
        self._closed = False

    def events(self, events: Sequence[E]) -> None:
        """Take the reads out of the worker's events. Neither waits nor raises."""
        for event in events:
            if event.method == "GET" and event.is_read and event.usage_source != "none":
                if self._each:
                    self._counted(event)
                else:
                    self._waiting.append((self._clock(), event))
                    if not self._closed:
                        self._task.start()

    def close(self) -> None:
        self._closed = True
        self._task.kill()

    def ask_ledger(self) -> None:
        """Ask the ledger once about the reads that the ledger may have decided on. Never raises."""
        now = self._clock()
        due: list[tuple[float, E]] = []
        while (
            self._waiting
            and self._waiting[0][0] <= now - _SETTLED_AFTER_SECONDS
            and len(due) < _MAX_PAGE
        ):
            due.append(self._waiting.popleft())
        if not due:
            return
        try:
            readers = self._store.readers([_name(event) for _, event in due])
        except StoreError:
            readers = {}
        except Exception:  # noqa: BLE001  (a defect must not end the greenlet)
            _log.exception("stored reads: the decisions of the ledger could not be read")
            readers = {}
        for arrived_at, event in reversed(due):
            reader = readers.get(_name(event))
            if reader is None:
                if now - arrived_at < _GIVEN_UP_AFTER_SECONDS:
                    self._waiting.appendleft((arrived_at, event))
            elif reader == event.event_id:
                self._counted(event)


def _name(event: Event) -> Name:
    return str(event.project_id), str(event.metadata["response_id"])
