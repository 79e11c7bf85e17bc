"""Writing to the spool: the folder of one process, its segments, and when they reach the disk.

What :meth:`SpoolWriter.append` has taken outlives the process at once, since it is the kernel's; it
outlives a power cut after the next :meth:`SpoolWriter.sync`. All methods may wait for the disk, and
are called from one thread at a time.

Reading, also from other processes::

    root = data_dir / "spool"
    for folder in writer_folders(root):                            # proxy.events.folders
        position = read_position(folder, "redis")                  # proxy.events.positions
        batch = read_batch(folder, position)                       # proxy.events.segments
        if batch.lines:
            deliver(batch.lines)                                   # or raise, and come back later
        if batch.position != position:                             # over damage, without lines, too
            write_position(folder, "redis", batch.position)        # durable when it returns
            tidy(folder, registered_sinks(root))                   # removes an orphan that is done
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.events.ownership import Ownership, node_lock, own
from proxy.events.positions import Position, highest_position, sync_folder
from proxy.events.segments import segment_numbers, segment_path

#: A segment that is larger or older than this is closed, so that it can be removed.
SEGMENT_BYTES: Final = 8 * 1024 * 1024
SEGMENT_SECONDS: Final = 120.0


class NotSpooled(OSError):
    """The disk did not take all records; the first ``accepted`` of the batch are in."""

    def __init__(self, accepted: int, cause: OSError) -> None:
        super().__init__(cause.errno, cause.strerror)
        self.accepted = accepted


class SpoolWriter:
    """The one writer of ``folder``."""

    def __init__(
        self, folder: Path, ownership: Ownership, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        self.folder = folder
        self._ownership = ownership
        self._segment_bytes = segment_bytes
        # The open segment: None between two. Numbers only grow, whatever the clock does, or a
        # reader would pass over a segment.
        self._descriptor: int | None = None
        self._size = 0
        self._opened = 0.0
        self._number = max([highest_position(folder).segment, *segment_numbers(folder)])
        # What a power cut would still take: bytes of the segment, of earlier ones, their names.
        self._unsynced = False
        self._closed: list[int] = []
        self._unsynced_names = False

    @classmethod
    def create(cls, root: Path, *, segment_bytes: int = SEGMENT_BYTES) -> "SpoolWriter":
        """A folder of its own for this process, whose name no other node has. Raises OSError."""
        name = f"{time.time_ns() // 1_000_000:014d}-{os.getpid()}-{os.urandom(8).hex()}"
        folder = root / name
        with node_lock(root):
            folder.mkdir(mode=0o700)
            ownership = own(folder, wait=True)
        if ownership is None:
            raise FileNotFoundError(f"{folder} has been removed")
        return cls(folder, ownership, segment_bytes=segment_bytes)

    @property
    def live(self) -> int | None:
        """The number of the segment that is being written."""
        return None if self._descriptor is None else self._number

    def append(self, records: Sequence[bytes]) -> Position:
        """Write framed ``records`` as one piece; returns the position behind them.

        Raises :class:`NotSpooled`. Records that were written whole stay even then, for a reader
        may have seen them; half a one is cut off.
        """
        data = b"".join(records)
        view, written = memoryview(data), 0
        try:
            descriptor = self._segment()
            while written < len(data):
                written += os.write(descriptor, view[written:])  # a full disk takes a part first
        except OSError as error:
            whole = data.rfind(b"\n", 0, written) + 1
            self._cut(whole)
            raise NotSpooled(data.count(b"\n", 0, whole), error) from error
        self._size += written
        self._unsynced = True
        position = Position(self._number, self._size)
        if self._size >= self._segment_bytes:
            self._close_segment()
        return position

    def sync(self) -> None:
        """Everything appended so far outlives a power cut. Raises OSError."""
        # Forgotten first: after a failure the kernel has dropped the pages, and another try would
        # only seem to succeed.
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
        """Close the segment if it is older than this, in seconds; the next append opens another."""
        if self._descriptor is not None and time.monotonic() - self._opened >= older_than:
            self._close_segment()

    def close(self) -> None:
        """End writing; the folder stays, owned, until :meth:`release`. Raises OSError."""
        self._close_segment()
        self.sync()

    def release(self) -> None:
        """Leave the folder to whoever looks for orphans."""
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
        """After a failed write, of which ``whole`` bytes are complete records."""
        if self._descriptor is None:
            return
        self._size += whole
        self._unsynced = True
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            # The half record stays, as a torn tail: nothing may be written behind it.
            self._close_segment()

    def _close_segment(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._closed.append(descriptor)
