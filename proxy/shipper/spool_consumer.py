"""One sink, and the thread that brings it what stands in the spools of all workers.

A position moves only after the sink has taken what is before it; whatever is killed in between is
delivered again. The thing to get wrong: when the disk is full a position cannot be written. The
batch before it has been taken all the same and must not be sent again and again, so the thread goes
on from memory. And what fails for one folder says nothing about the next: its batch may hold the
one event that is never taken, so each folder has pauses of its own.
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

_log = logging.getLogger(__name__)

_BATCH: Final = 500
#: Seconds between two looks at spools in which nothing was left.
_LOOK: Final = 0.5
#: Seconds after which a position is made to outlive a power cut, too.
_DURABLE: Final = 5.0

#: Bytes of an event, until there is a better idea.
_TYPICAL: Final = 600

#: Takes a batch that was read from the writer's folder of this name, from this position on, or
#: raises. Answers where to go on, which is behind the batch for all but a sink that remembers more.
Handler = Callable[[str, Offset, Batch], Offset]


@dataclass(slots=True)
class _Failing:
    """A folder, by the sink's fault or the disk's; tried again at ``due``, by the steady clock."""

    backoff: Backoff
    error: Exception
    due: float


class SpoolConsumer:
    """One sink, and the thread that brings it what stands in the spool."""

    def __init__(
        self,
        name: str,
        take: Handler,
        root: Path,
        *,
        close: Callable[[], None] = lambda: None,
        dead_letters: Callable[[], int] = lambda: 0,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        """``name`` is that under which segments are kept for the sink; ``dead_letters``: how many
        events it refused for good; ``backoff`` makes one for each folder that fails."""
        self.name = name
        self._take = take
        self._close = close
        self._dead_letters = dead_letters
        self._root = root
        self._backoff = backoff
        # Where it goes on in each folder; the files may be behind, see above.
        self._positions: dict[str, Offset] = {}
        self._unwritten: dict[str, Offset] = {}
        self._durable_at = 0.0
        # By the folder's name; "" is the spool itself.
        self._failing: dict[str, _Failing] = {}
        # When the oldest event that waits came in, by folder.
        self._oldest: dict[str, float] = {}
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        #: Events that the sink took, writes that failed, and records that were damaged.
        self.delivered = 0
        self.delivered_bytes = 0
        self.errors = 0
        self.damaged = 0
        #: The last error while the sink fails, else None.
        self.trouble: str | None = None

    @property
    def lag(self) -> float:
        """Seconds since the oldest event came in that the sink has not taken; 0: none waits."""
        oldest = min(list(self._oldest.values()), default=None)
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    @property
    def pending_bytes(self) -> int:
        total = 0
        for folder in writer_folders(self._root):
            with contextlib.suppress(OSError):  # of one folder; the others count
                position = self._positions.get(folder.name) or read_offset(folder, self.name)
                total += pending_bytes(folder, position)
        return total

    @property
    def pending_events(self) -> int:
        """Estimated by the size of those before: counting them would be reading them."""
        waiting = self.pending_bytes
        size = self.delivered_bytes / self.delivered if self.delivered else _TYPICAL
        return math.ceil(waiting / (size + PREFIX))

    @property
    def dead_letters(self) -> int:
        return self._dead_letters()

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Handler what is there, as long as the sink takes it, and end."""
        self._finishing.set()

    def join(self, timeout: float) -> bool:
        """Whether it has ended within ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        told = False
        while True:
            # Looked at before the pass: what comes in during it is looked for once more.
            last = self._finishing.is_set()
            moved = self._pass(math.inf if last and not told else time.monotonic())
            told = last
            self._note()
            if last and not moved:
                break
            if not moved:
                self._finishing.wait(_LOOK)
        try:
            self._close()
        except Exception as error:  # noqa: BLE001
            _log.warning("event sink %s could not be closed: %s", self.name, error)

    def _pass(self, now: float) -> bool:
        """A batch from each folder whose time has come, so that none waits for another; whether
        something was taken."""
        moved = False
        try:
            folders = writer_folders(self._root)
        except OSError as error:
            self._fails("", error)
            return False
        for folder in folders:
            failing = self._failing.get(folder.name)
            if failing is None or failing.due <= now:
                try:
                    moved |= self._advance(folder)
                    self._failing.pop(folder.name, None)
                except Exception as error:  # noqa: BLE001  (this folder's alone)
                    self._fails(folder.name, error)
        names = {folder.name for folder in folders}
        for known in (self._positions, self._unwritten, self._oldest, self._failing):
            for name in known.keys() - names:
                del known[name]
        return moved

    def _fails(self, name: str, error: Exception) -> None:
        self.errors += 1
        known = self._failing.get(name)
        backoff = known.backoff if known else self._backoff()
        self._failing[name] = _Failing(backoff, error, time.monotonic() + backoff.pause())

    def _note(self) -> None:
        """Told once, until no folder fails any more."""
        if not self._failing:
            if self.trouble is not None:
                _log.info("event sink %s works again", self.name)
            self.trouble = None
            return
        error = next(iter(self._failing.values())).error
        if self.trouble is None:
            _log.error("event sink %s fails, its events are kept: %s", self.name, error)
        self.trouble = f"{type(error).__name__}: {error}"

    def _advance(self, folder: Path) -> bool:
        name = folder.name
        if name not in self._positions:
            self._positions[name] = read_offset(folder, self.name)
        position = self._positions[name]
        batch = read_batch(folder, position, max_lines=_BATCH)
        if batch.lines:
            self._oldest[name] = event_time(batch.lines[0]) or time.time()
            after = self._take(name, position, batch)
        else:
            after = batch.position
        self._oldest.pop(name, None)
        moved = after != position
        if moved:
            if after == batch.position:
                self.delivered += len(batch.lines)
                self.delivered_bytes += sum(map(len, batch.lines))
                self.damaged += batch.damaged
            self._positions[name] = self._unwritten[name] = after
        if name in self._unwritten:
            self._remember(folder)
        return moved

    def _remember(self, folder: Path) -> None:
        """Write the position down, then let go of what nobody needs any more."""
        # Each time would be an fsync a batch; before a segment goes, they are made durable anyway.
        durable = time.monotonic() - self._durable_at >= _DURABLE
        write_offset(folder, self.name, self._unwritten[folder.name], durable=durable)
        del self._unwritten[folder.name]
        if durable:
            self._durable_at = time.monotonic()
        tidy(folder, registered_sinks(self._root))
