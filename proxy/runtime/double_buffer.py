"""A small file that one process overwrites repeatedly and others may read at any moment.

The file has its full size from the start. Overwriting it needs no space, so metrics continue to
change when the disk is full, which is when they are needed. The writer alternates between two
slots, so that one slot is whole whenever the writer is killed. The writer holds a lock on the file
(`flock`), which the kernel releases however the process ends.

Note: the lock belongs to the open file, not to its name. A file gets its name once it is locked
and written, never before.

Layout: two slots of equal size, each::

    u64   sequence number; the slot with the larger one counts
    u32   length of the payload
    u32   CRC-32 of sequence number and payload
    payload
"""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from proxy.runtime import filelock

#: Sequence number, length, checksum.
_HEAD: Final = struct.Struct("<QII")
_MIN_CAPACITY_BYTES: Final = 32 * 1024
#: Reads of a file that is being written to all the while, at most.
_MAX_READS: Final = 100


class Slot(NamedTuple):
    payload: bytes
    #: Whether the process that wrote it still runs.
    live: bool


class DoubleBufferedFile:
    """The writer's side. After an OSError from any method, the file has its previous content."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._capacity = 0
        self._sequence = 0

    def write(self, payload: bytes) -> None:
        self._sequence += 1
        if self._descriptor is None or len(payload) > self._capacity or not self._path.exists():
            self._make(payload)
        else:
            self._put(self._descriptor, payload)

    def close(self) -> None:
        """Release the lock. The file remains, as that of a process that has ended."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _make(self, payload: bytes) -> None:
        """Make a file with room for twice the payload. It gets its name once it is complete."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        capacity = max(_MIN_CAPACITY_BYTES, 2 * len(payload))
        # Readers skip names with this suffix.
        temporary = self._path.with_suffix(".new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            if not filelock.try_lock(descriptor):
                raise BlockingIOError(f"{temporary} is locked")
            os.posix_fallocate(descriptor, 0, 2 * (capacity + _HEAD.size))
            before, self._capacity = self._capacity, capacity
            try:
                self._put(descriptor, payload)
                temporary.replace(self._path)
            except BaseException:
                self._capacity = before
                raise
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self.close()
        self._descriptor = descriptor

    def _put(self, descriptor: int, payload: bytes) -> None:
        number = struct.pack("<Q", self._sequence)
        check = zlib.crc32(payload, zlib.crc32(number))
        head = _HEAD.pack(self._sequence, len(payload), check)
        where = (self._sequence % 2) * (self._capacity + _HEAD.size)
        os.pwrite(descriptor, head + payload, where)


def read(path: Path) -> Slot | None:
    """Return the last slot that is whole, or None. Raises OSError: there is no such file."""
    current = False
    while not current:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Checked before reading: of a process that has ended, this then reads the last write.
            live = not _lock(descriptor)
            status = os.fstat(descriptor)
            halves = _halves(descriptor, status.st_size)
            # A writer that needs more room unlocks this file once a new one has taken its name.
            # Compared while this file is open: a new file may get its inode number afterwards.
            current = live or os.path.samestat(status, path.stat())
        finally:
            os.close(descriptor)
    found = [slot for half in halves if (slot := _slot(half))]
    return Slot(max(found)[1], live) if found else None


def _halves(descriptor: int, size: int) -> tuple[bytes, bytes]:
    """Read both slots as they were at one moment, except for one that is being written.

    A reader that loses the CPU in the middle may find the first slot as it was before, and the
    second torn two writes later, or both torn. So this compares the heads again after reading.
    """
    half = size // 2
    for _ in range(_MAX_READS):
        data = os.pread(descriptor, size, 0)
        halves = data[:half], data[half:]
        if all(
            os.pread(descriptor, _HEAD.size, offset) == read[: _HEAD.size]
            for offset, read in zip((0, half), halves, strict=True)
        ):
            break
    return halves


def _slot(data: bytes) -> tuple[int, bytes] | None:
    if len(data) < _HEAD.size:
        return None
    sequence, length, check = _HEAD.unpack_from(data)
    payload = data[_HEAD.size : _HEAD.size + length]
    number = data[:8]
    if not sequence or len(payload) != length or zlib.crc32(payload, zlib.crc32(number)) != check:
        return None
    return sequence, payload


def _lock(descriptor: int) -> bool:
    """Try a shared lock, so that simultaneous readers do not take each other for a writer."""
    try:
        return filelock.try_lock(descriptor, shared=True)
    except OSError:
        return False
