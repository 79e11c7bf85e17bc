"""A small file that one process overwrites again and again and others read at any moment.

It is as large as it will be from the start: overwriting needs no space, so that figures go on
changing when the disk is full, which is when somebody looks at them. Two slots take turns, so that
one is whole whenever the writer is killed. The writer holds a lock on the file (``flock``), which
the kernel lets go when the process ends in whichever way.

The thing to get wrong: the lock belongs to the open file, not to its name. A file gets its name
when it is locked and written, never before.
"""

import contextlib
import fcntl
import os
import struct
import zlib
from pathlib import Path
from typing import Final, NamedTuple

#: Sequence number (the larger one counts), length, checksum of number and payload.
_HEAD: Final = struct.Struct("<QII")
_SMALLEST: Final = 32 * 1024
#: Looks at the most, one after the other, at a file that is written to all the while.
_LOOKS: Final = 100


class Slot(NamedTuple):
    payload: bytes
    #: Whether its writer still lives.
    live: bool


class DoubleBufferedFile:
    """The writer's side. OSError from any method leaves what was written before."""

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
        """What was written stays, as of a process that has ended."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _make(self, payload: bytes) -> None:
        """A file with room for twice as much, under this name once it is complete."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        capacity = max(_SMALLEST, 2 * len(payload))
        # No reader takes a name with this ending.
        temporary = self._path.with_suffix(".new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
    """What was written last and is whole; None when there is nothing. OSError: no such file."""
    current = False
    while not current:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Looked at first: what an ended process has written last is then what is read.
            live = not _lock(descriptor)
            status = os.fstat(descriptor)
            halves = _halves(descriptor, status.st_size)
            # A writer that needs more room lets go of this file once another has taken its name.
            # Asked while it is open: its number may be that of a new file afterwards.
            current = live or os.path.samestat(status, path.stat())
        finally:
            os.close(descriptor)
    found = [slot for half in halves if (slot := _slot(half))]
    return Slot(max(found)[1], live) if found else None


def _halves(descriptor: int, size: int) -> tuple[bytes, bytes]:
    """Both slots, as they were at one moment, but for one that is just being written.

    A reader that loses the processor in the middle of it may find the first as it was before, and
    the second torn two writes later; or both torn. So their heads are looked at again.
    """
    half = size // 2
    for _ in range(_LOOKS):
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
    """Shared, so that readers who look at the same time do not take each other for a writer."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
