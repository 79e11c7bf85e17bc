"""One worker's side of the spool: append records, sync them, remove what is no longer needed.

All calls may wait for the disk, so they run on a thread, one at a time. They never log, because
logging would wait for locks that belong to the event loop: log lines go to
:attr:`SpoolWriter.notices`. A spool that cannot be written stops no request: writing is retried,
lines that are not spooled are counted, and the local sinks get them anyway.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.events.spool.inflight_table import InFlightTable
from proxy.events.spool.lock import SpoolLock, acquire, node_lock
from proxy.events.spool.offsets import START, Offset, highest_offset, sync_folder, write_offset
from proxy.events.spool.retention import (
    LOCAL,
    enforce_max_bytes,
    reclaim,
    register_sinks,
    remove_if_empty,
)
from proxy.events.spool.segment import segment_numbers, segment_path
from proxy.runtime.failure_log import FailureLog

#: A segment beyond this size or age is closed, so that it can be removed.
SEGMENT_BYTES: Final = 8 * 1024 * 1024
SEGMENT_SECONDS: Final = 120.0


class NotSpooled(OSError):
    """The disk did not take all records; the first `accepted` of the batch are written."""

    def __init__(self, accepted: int, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.accepted = accepted


class SegmentWriter:
    """The only writer of `folder`."""

    def __init__(
        self, folder: Path, ownership: SpoolLock, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.folder = folder
        self._ownership = ownership
        self._segment_bytes = segment_bytes
        # The open segment; None between two segments. Numbers only grow, whatever the clock does:
        # a reader would pass over a segment with a smaller number.
        self._descriptor: int | None = None
        self._size = 0
        self._opened = 0.0
        self._number = max([highest_offset(folder).segment, *segment_numbers(folder)])
        # What a power cut would lose: bytes of this segment, closed segments, names of segments.
        self._unsynced = False
        self._closed: list[int] = []
        self._unsynced_names = False

    @classmethod
    def create(cls, root: Path, *, segment_bytes: int = SEGMENT_BYTES) -> "SegmentWriter":
        """Make and lock a folder for this process. Its name is unique over all nodes. Raises
        OSError."""
        name = f"{time.time_ns() // 1_000_000:014d}-{os.getpid()}-{os.urandom(8).hex()}"
        folder = root / name
        with node_lock(root):
            folder.mkdir(mode=0o700)
            ownership = acquire(folder, wait=True)
        if ownership is None:
            raise FileNotFoundError(f"{folder} has been removed")
        return cls(folder, ownership, segment_bytes=segment_bytes)

    @property
    def live(self) -> int | None:
        """The number of the segment that is being written."""
        return None if self._descriptor is None else self._number

    def append(self, records: Sequence[bytes]) -> Offset:
        """Write encoded `records` in one piece. Returns the offset behind them.

        Raises :class:`NotSpooled`. Records that are complete stay even then, because a reader may
        have seen them; half a record is cut off.
        """
        data = b"".join(records)
        view, written = memoryview(data), 0
        try:
            descriptor = self._segment()
            while written < len(data):
                written += os.write(descriptor, view[written:])  # before ENOSPC, a part is written
        except OSError as error:
            whole = data.rfind(b"\n", 0, written) + 1
            self._cut(whole)
            raise NotSpooled(data.count(b"\n", 0, whole), error) from error
        self._size += written
        self._unsynced = True
        offset = Offset(self._number, self._size)
        if self._size >= self._segment_bytes:
            self._close_segment()
        return offset

    def sync(self) -> None:
        """Make everything appended so far survive a power cut. Raises OSError."""
        # Reset first: after a failed fsync the kernel has dropped the pages, and another fsync
        # would only seem to succeed.
        unsynced, self._unsynced = self._unsynced, False
        if unsynced and self._descriptor is not None:
            os.fsync(self._descriptor)
        while self._closed:
            descriptor = self._closed.pop()
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if self._unsynced_names:
            sync_folder(self.folder)
            self._unsynced_names = False

    def roll(self, older_than: float = SEGMENT_SECONDS) -> None:
        """Close the segment when it is older than `older_than` seconds; the next append opens
        another."""
        if self._descriptor is not None and time.monotonic() - self._opened >= older_than:
            self._close_segment()

    def close(self) -> None:
        """Stop writing. The folder stays locked until :meth:`release`. Raises OSError."""
        self._close_segment()
        self.sync()

    def release(self) -> None:
        """Release the folder's lock: the folder is abandoned, and recovery takes it."""
        self._ownership.release()

    def _segment(self) -> int:
        if self._descriptor is None:
            number = max(self._number + 1, time.time_ns() // 1_000_000)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(segment_path(self.folder, number), flags, 0o600)
            self._number, self._size, self._opened = number, 0, time.monotonic()
            self._unsynced_names = True
        return self._descriptor

    def _cut(self, whole: int) -> None:
        """Cut off half a record after a failed write; `whole` bytes are complete records."""
        if self._descriptor is None:
            return
        self._size += whole
        self._unsynced = True
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            # Half a record stays, as a torn tail: nothing may be written behind it.
            self._close_segment()

    def _close_segment(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._closed.append(descriptor)


_RETRY_SECONDS: Final = 5.0
#: Share of SPOOL_MAX_BYTES below which a full spool counts as relaxed again.
_RELAXED: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """Settings of one worker's spool.

    `sinks` are those for which segments are kept. `fsync_interval` is in seconds; 0 syncs each
    batch. `slots` is the size of the in-flight table.
    """

    root: Path
    sinks: frozenset[str]
    max_bytes: int
    fsync_interval: float
    slots: int


class SpoolWriter:
    """The spool of one worker. Made, used and closed on one thread at a time."""

    def __init__(self, settings: SpoolSettings) -> None:
        self._settings = settings
        self._writer: SegmentWriter | None = None
        self._tried = 0.0
        self._synced = time.monotonic()
        self._local = START
        self._failures = {
            what: FailureLog(
                lambda level, text, **_: self.notices.append((level, text)),
                f"spool {settings.root}",
                f"cannot be {what}",
                f"can be {what} again",
                level=logging.ERROR,
            )
            for what in ("made", "written", "synced", "cleared", "closed")
        }
        # Whether old segments are being dropped, which is logged once.
        self._dropping = False
        self._grown = False
        #: The worker's in-flight table; None until it could be made.
        self.inflight_table: InFlightTable | None = None
        #: Bytes in the spool of the whole node, at the last check.
        self.bytes = 0
        #: Records of the last batch that are in the spool.
        self.accepted = 0
        #: Records that were neither spooled nor kept; that were dropped over SPOOL_MAX_BYTES.
        self.unspooled = 0
        self.dropped = 0
        #: Log lines for the event loop to write: level and text.
        self.notices: deque[tuple[int, str]] = deque()

    @property
    def root(self) -> Path:
        return self._settings.root

    @property
    def max_bytes(self) -> int:
        return self._settings.max_bytes

    @property
    def sinks(self) -> frozenset[str]:
        return self._settings.sinks

    def open(self) -> None:
        """Make the folder and the in-flight table. What fails is tried again by `maintain`."""
        settings = self._settings
        self._tried = time.monotonic()
        try:
            if self._writer is None:
                register_sinks(settings.root, settings.sinks)
                size = min(SEGMENT_BYTES, max(settings.max_bytes // 16, 4096))
                self._writer = SegmentWriter.create(settings.root, segment_bytes=size)
            if self.inflight_table is None:
                self.inflight_table = InFlightTable.create(self._writer.folder, settings.slots)
            self._succeeded("made")
        except OSError as error:
            self._failed("made", error)

    def append(
        self, records: Sequence[bytes], local: Offset | None, keep: int = 0
    ) -> Offset | None:
        """Append records. Returns the offset behind them, or None when not all are written: see
        :attr:`accepted`.

        `keep` is how many of the others the caller keeps and appends again. `local` is the offset
        that the local sinks have passed.
        """
        self.accepted = 0
        try:
            self._save(local)
            if self._writer is not None:
                offset = self._writer.append(records)
                self._grown = True
                if not self._settings.fsync_interval:
                    self._sync()
                self.accepted = len(records)
                self._succeeded("written")
                return offset
        except OSError as error:
            self.accepted = error.accepted if isinstance(error, NotSpooled) else 0
            self._failed("written", error)
        self.unspooled += max(0, len(records) - self.accepted - keep)
        return None

    def maintain(self, local: Offset | None) -> None:
        """Run periodic work: retry, sync, close and remove segments, enforce the maximum.

        `local` is the offset that the local sinks have passed.
        """
        try:
            if self._writer is not None and not self._writer.folder.exists():
                # The folder was removed from outside. The table stays: requests hold slot numbers.
                self._writer.release()
                self._writer = None
            incomplete = self._writer is None or self.inflight_table is None
            if incomplete and time.monotonic() - self._tried >= _RETRY_SECONDS:
                self.open()
            writer = self._writer
            if writer is None:
                return
            if time.monotonic() - self._synced >= self._settings.fsync_interval:
                self._sync()
            writer.roll()
            self._save(local)
            reclaim(writer.folder, self._settings.sinks, live=writer.live)
            self._enforce_max_bytes()
            self._succeeded("cleared")
        except OSError as error:
            self._failed("cleared", error)

    def close(self, local: Offset | None) -> None:
        """Close the segment and save the offset; remove the folder when it is empty."""
        writer = self._writer
        if writer is None:
            return
        try:
            writer.close()
            self._save(local)
            if self.inflight_table is not None:
                self.inflight_table.close()
            reclaim(writer.folder, self._settings.sinks)
            remove_if_empty(writer.folder)
        except OSError as error:
            self._failed("closed", error)
        self._writer = None
        if self.inflight_table is None or not self.inflight_table.open:
            writer.release()
        # Otherwise requests still run and write into their slots, so the lock is kept until the
        # process ends.

    def _sync(self) -> None:
        self._synced = time.monotonic()
        if self._writer is not None:
            try:
                self._writer.sync()
                self._succeeded("synced")
            except OSError as error:
                self._failed("synced", error)

    def _save(self, local: Offset | None) -> None:
        if local is not None and local != self._local and self._writer is not None:
            write_offset(self._writer.folder, LOCAL, local, durable=False)
            self._local = local

    def _enforce_max_bytes(self) -> None:
        if not self._grown:
            return
        self._grown = False
        max_bytes = self._settings.max_bytes
        bounded = enforce_max_bytes(self._settings.root, max_bytes, self._settings.sinks)
        self.bytes = bounded.kept
        self.dropped += bounded.lost + bounded.refused
        if (bounded.lost or bounded.refused) and not self._dropping:
            self._dropping = True
            text = f"the spool has reached SPOOL_MAX_BYTES, the oldest go: {bounded.lost} events"
            if bounded.refused:
                text += f", after {bounded.refused} of requests without a known token"
            self.notices.append((logging.ERROR, text))
        elif bounded.kept < max_bytes * _RELAXED and self._dropping:
            self._dropping = False
            text = f"the spool is within SPOOL_MAX_BYTES again; {self.dropped} events were dropped"
            self.notices.append((logging.INFO, text))

    def _failed(self, what: str, error: OSError) -> None:
        self._failures[what].failed(error)

    def _succeeded(self, what: str) -> None:
        failures = self._failures[what]
        if failures.failing:
            failures.worked(f"{self.unspooled} events are not in it")
