"""Audit entries that belong to no change, and so to no transaction: refusals and failed calls.

A greenlet writes them, off every path. While the store is away they are kept, up to a bound; those
beyond it are counted and logged. The thing to get wrong: nobody may wait for any of this, or a
database that hangs would slow down whoever is refused.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import gevent
from gevent.event import Event

from proxy.audit.denials import DenialAggregator
from proxy.core.errors import StoreError
from proxy.store.audit import AuditEntry, PendingEntry

_log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0
#: Entries that wait at the most.
_MOST: Final = 1000
#: Entries a transaction, which holds up every management call on every node.
_BATCH: Final = 20


class EntryStore(Protocol):
    """The store, as seen from here."""

    def write(self, drafts: Sequence[PendingEntry]) -> list[AuditEntry]: ...


class AuditWriter:
    """One per worker; ``refusals`` is asked once a second for what it has to tell."""

    def __init__(
        self, store: EntryStore, refusals: DenialAggregator, tell: Callable[[AuditEntry], None]
    ) -> None:
        """``tell`` is given every entry of this worker that was committed; it must not wait."""
        self._store = store
        self.refusals = refusals
        self.tell = tell
        # Oldest first; what is just being written is among them until it is committed.
        self._waiting: deque[PendingEntry] = deque()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._closing = Event()
        self._failing = False
        #: Entries that were lost: they found no room, or could not be written.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, draft: PendingEntry) -> None:
        """To be written soon. Neither waits nor raises."""
        if len(self._waiting) < _MOST:
            self._waiting.append(draft)
            return
        if not self.dropped:
            _log.error("audit entries are dropped: %d wait for the database", _MOST)
        self.dropped += 1

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Write what is left, for ``deadline`` seconds at the most; what then remains is logged.

        Nothing, where it was not started: then there may be no database.
        """
        self._closing.set()
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            greenlet.join()
            self._gather(all_of_them=True)
            self.flush()
            while self._waiting and not self._failing:
                self.flush()
        self.dropped += len(self._waiting)
        if self.dropped:
            _log.error("%d audit entries could not be written", self.dropped)

    def flush(self) -> None:
        """One attempt to write all that waits now. Whatever the store raises, it is kept."""
        left = len(self._waiting)
        while left:
            batch = [self._waiting[i] for i in range(min(_BATCH, left))]
            left -= len(batch)
            try:
                written = self._store.write(batch)
            except StoreError as error:
                if not self._failing:
                    _log.warning("audit entries cannot be written, they are kept", exc_info=error)
                self._failing = True
                return
            except Exception:  # noqa: BLE001
                # A defect of ours: kept, they would be in everybody's way for ever.
                _log.exception("%d audit entries cannot be written, they are dropped", len(batch))
                self.dropped += len(batch)
                written = []
            self._failing = False
            for _ in batch:
                self._waiting.popleft()
            for entry in written:
                self.tell(entry)

    def _run(self) -> None:
        while not self._closing.wait(_INTERVAL):
            try:
                self._gather()
                self.flush()
            except Exception:  # noqa: BLE001
                # A defect of ours must not end it: nothing would be written any more.
                _log.exception("recording audit entries failed")

    def _gather(self, *, all_of_them: bool = False) -> None:
        for draft in self.refusals.due(all_of_them=all_of_them):
            self.put(draft)
