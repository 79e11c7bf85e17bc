"""Audit entries that belong to no change, and so to no transaction: denials and failed calls.

A periodic task writes them, off the path of every request. While the store is away they are kept,
up to a bound; those beyond it are counted and logged. No request may wait for any of this: a
database that hangs would slow down every refusal.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import gevent

from proxy.audit.denials import DenialAggregator
from proxy.core.errors import StoreError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.store.audit import AuditEntry, PendingEntry

_log = logging.getLogger(__name__)

#: Seconds between two flushes.
_INTERVAL: Final = 1.0
#: Entries that may wait for the store.
_MAX_WAITING: Final = 1000
#: Entries per transaction, which holds up every management call on every node.
_BATCH: Final = 20


class EntryStore(Protocol):
    """Appends entries to the audit log. Raises StoreError."""

    def write(self, drafts: Sequence[PendingEntry]) -> list[AuditEntry]: ...


class AuditWriter:
    """Writes entries that wait, once a second. One per worker."""

    def __init__(
        self, store: EntryStore, denials: DenialAggregator, publish: Callable[[AuditEntry], None]
    ) -> None:
        """Create a writer.

        Args:
            store: Takes the entries.
            denials: Asked once a second for the entries that are due.
            publish: Called with every entry of this worker that was committed. Must not wait.
        """
        self._store = store
        self.denials = denials
        self.publish = publish
        # Oldest first. Entries that are being written stay here until they are committed.
        self._waiting: deque[PendingEntry] = deque()
        self._task = PeriodicTask(
            self._run, lambda: _INTERVAL, failure="audit writer: a flush failed", log=_log
        )
        self._failures = FailureLog(
            _log.log, "audit writer", "entries are kept, not written", "entries are written again"
        )
        #: Entries that were lost: there was no room for them, or they could not be written.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, draft: PendingEntry) -> None:
        """Queue an entry to be written soon. Neither waits nor raises."""
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(draft)
            return
        if not self.dropped:
            _log.error("audit writer: entries are dropped, %d wait for the database", _MAX_WAITING)
        self.dropped += 1

    def start(self) -> None:
        self._task.start()

    def close(self, deadline: float) -> None:
        """Write what is left, for at most `deadline` seconds. What then remains is logged.

        Does nothing unless the writer was started: there may be no database then. Idempotent.
        """
        if not self._task.started:
            return
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            self._task.finish()
            self._gather(all_of_them=True)
            self.flush()
            while self._waiting and not self._failures.failing:
                self.flush()
        self.dropped += len(self._waiting)
        if self.dropped:
            _log.error("audit writer: %d entries could not be written", self.dropped)

    def flush(self) -> None:
        """Try once to write all that waits now. A StoreError keeps the entries."""
        left = len(self._waiting)
        while left:
            batch = [self._waiting[i] for i in range(min(_BATCH, left))]
            left -= len(batch)
            try:
                written = self._store.write(batch)
            except StoreError as error:
                self._failures.failed(error)
                return
            except Exception:  # noqa: BLE001
                # A defect. Entries that were kept would block all later ones for ever.
                _log.exception(
                    "audit writer: %d entries cannot be written and are dropped", len(batch)
                )
                self.dropped += len(batch)
                written = []
            self._failures.worked()
            for _ in batch:
                self._waiting.popleft()
            for entry in written:
                self.publish(entry)

    def _run(self) -> None:
        self._gather()
        self.flush()

    def _gather(self, *, all_of_them: bool = False) -> None:
        for draft in self.denials.due(all_of_them=all_of_them):
            self.put(draft)
