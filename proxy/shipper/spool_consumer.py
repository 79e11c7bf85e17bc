"""One sink, and the thread that delivers to it the events in the spools of all workers.

An offset moves only after the sink has accepted what is before it; after a kill in between, the
batch is delivered again. A failure in one folder says nothing about the next: its batch may hold
the one event that is never accepted. So each folder has pauses of its own.

Note: on a full disk an offset cannot be written. The batch before it is accepted nevertheless and
must not be sent again and again, so the thread continues from the offset in memory.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.core.usage_event import event_time
from proxy.events.spool.offsets import Offset, read_offset, write_offset
from proxy.events.spool.retention import registered_sinks, tidy, writer_folders
from proxy.events.spool.segment import PREFIX, Batch, pending_bytes, read_batch
from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog

_log = logging.getLogger(__name__)

_BATCH: Final = 500
#: Seconds between two passes while there is nothing to deliver.
_POLL_INTERVAL_SECONDS: Final = 0.5
#: Seconds between two offsets that survive a power cut.
_DURABLE_INTERVAL_SECONDS: Final = 5.0

#: Estimated bytes of an event before the first is delivered.
_TYPICAL_BYTES: Final = 600

#: Called with a writer's folder name, the offset at which the batch starts, and the batch. Returns
#: the offset at which to continue: the end of the batch, except for a sink that stores its own
#: offset. Raises when the sink does not accept the batch.
Handler = Callable[[str, Offset, Batch], Offset]


@dataclass(slots=True)
class _FailingFolder:
    """A folder whose delivery failed, at the sink or at the disk. Retried at `due` (monotonic)."""

    backoff: Backoff
    error: Exception
    due: float


class SpoolConsumer:
    """Delivers the events of a node's spools to one sink, on a thread of its own."""

    def __init__(
        self,
        name: str,
        handle: Handler,
        root: Path,
        *,
        close: Callable[[], None] = lambda: None,
        dead_letters: Callable[[], int] = lambda: 0,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        """`name` is the sink's name in ``sinks.json``. `dead_letters` returns how many events the
        sink refused permanently. `backoff` makes the backoff of a folder that fails."""
        self.name = name
        self._handle = handle
        self._close = close
        self._dead_letters = dead_letters
        self._root = root
        self._backoff = backoff
        # Where to continue in each folder. The files may be behind, see the note above.
        self._offsets: dict[str, Offset] = {}
        self._unwritten: dict[str, Offset] = {}
        self._durable_at = 0.0
        # By folder name; "" is the spool itself.
        self._failing_folders: dict[str, _FailingFolder] = {}
        self._failures = FailureLog(
            _log.log, f"event sink {name}", "fails, its events are kept", level=logging.ERROR
        )
        # Folder name → time of the oldest waiting event.
        self._oldest: dict[str, float] = {}
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        #: Events that the sink accepted, their bytes, writes that failed, damaged records.
        self.delivered = 0
        self.delivered_bytes = 0
        self.errors = 0
        self.damaged = 0
        #: The last error while the sink fails; otherwise None.
        self.trouble: str | None = None

    @property
    def lag(self) -> float:
        """Seconds since the oldest event that the sink has not accepted; 0 when none waits."""
        oldest = min(list(self._oldest.values()), default=None)
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    @property
    def pending_bytes(self) -> int:
        total = 0
        for folder in writer_folders(self._root):
            with contextlib.suppress(OSError):  # one folder; the others still count
                offset = self._offsets.get(folder.name) or read_offset(folder, self.name)
                total += pending_bytes(folder, offset)
        return total

    @property
    def pending_events(self) -> int:
        """Estimated from the mean size so far, because counting would mean reading them."""
        waiting = self.pending_bytes
        size = self.delivered_bytes / self.delivered if self.delivered else _TYPICAL_BYTES
        return math.ceil(waiting / (size + PREFIX))

    @property
    def dead_letters(self) -> int:
        return self._dead_letters()

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Deliver what is there, as long as the sink accepts it, and end."""
        self._finishing.set()

    def join(self, timeout: float) -> bool:
        """Returns whether the thread has ended within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        finishing_seen = False
        while True:
            # Read before the pass, so that events that come during it get one more pass.
            last = self._finishing.is_set()
            moved = self._pass(math.inf if last and not finishing_seen else time.monotonic())
            finishing_seen = last
            self._report()
            if last and not moved:
                break
            if not moved:
                self._finishing.wait(_POLL_INTERVAL_SECONDS)
        try:
            self._close()
        except Exception as error:  # noqa: BLE001
            _log.warning("event sink %s could not be closed: %s", self.name, error)

    def _pass(self, now: float) -> bool:
        """Deliver one batch of each folder that is due, so that no folder waits for another.

        Returns whether anything was accepted.
        """
        moved = False
        try:
            folders = writer_folders(self._root)
        except OSError as error:
            self._failed("", error)
            return False
        for folder in folders:
            failing = self._failing_folders.get(folder.name)
            if failing is None or failing.due <= now:
                try:
                    moved |= self._advance(folder)
                    self._failing_folders.pop(folder.name, None)
                except Exception as error:  # noqa: BLE001  (this folder's alone)
                    self._failed(folder.name, error)
        names = {folder.name for folder in folders}
        for known in (self._offsets, self._unwritten, self._oldest, self._failing_folders):
            for name in known.keys() - names:
                del known[name]
        return moved

    def _failed(self, name: str, error: Exception) -> None:
        self.errors += 1
        known = self._failing_folders.get(name)
        backoff = known.backoff if known else self._backoff()
        self._failing_folders[name] = _FailingFolder(
            backoff, error, time.monotonic() + backoff.pause()
        )

    def _report(self) -> None:
        """Log a failure once, until no folder fails any more."""
        if not self._failing_folders:
            self._failures.worked()
            self.trouble = None
            return
        error = next(iter(self._failing_folders.values())).error
        self._failures.failed(error)
        self.trouble = f"{type(error).__name__}: {error}"

    def _advance(self, folder: Path) -> bool:
        name = folder.name
        if name not in self._offsets:
            self._offsets[name] = read_offset(folder, self.name)
        offset = self._offsets[name]
        batch = read_batch(folder, offset, max_lines=_BATCH)
        if batch.lines:
            self._oldest[name] = event_time(batch.lines[0]) or time.time()
            after = self._handle(name, offset, batch)
        else:
            after = batch.offset
        self._oldest.pop(name, None)
        moved = after != offset
        if moved:
            if after == batch.offset:
                self.delivered += len(batch.lines)
                self.delivered_bytes += sum(map(len, batch.lines))
                self.damaged += batch.damaged
            self._offsets[name] = self._unwritten[name] = after
        if name in self._unwritten:
            self._save_offset(folder)
        return moved

    def _save_offset(self, folder: Path) -> None:
        """Write the offset, then remove what no sink needs any more."""
        # Durable each time would cost an fsync a batch. Before a segment is removed, offsets are
        # made durable anyway.
        durable = time.monotonic() - self._durable_at >= _DURABLE_INTERVAL_SECONDS
        write_offset(folder, self.name, self._unwritten[folder.name], durable=durable)
        del self._unwritten[folder.name]
        if durable:
            self._durable_at = time.monotonic()
        tidy(folder, registered_sinks(self._root))
