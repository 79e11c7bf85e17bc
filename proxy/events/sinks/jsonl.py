"""Events to a file of JSON lines, rotated by size, shared by all workers of a node.

The thing to get wrong: several processes append and any of them may rotate. Each batch is one
``O_APPEND`` write; rotation happens under a lock file, and only if the file is still the one that
was found too large; a writer whose file has been renamed reopens before its next batch.
"""

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path


class JsonLinesSink:
    """Appends to ``path``; past ``max_bytes`` it becomes ``path.1``, up to ``path.<backups>``."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._descriptor: int | None = None

    def write(self, batch: Sequence[bytes]) -> None:
        """Raises OSError (a full disk, no permission); a part that got through is cut off again."""
        descriptor = self._open()
        data = memoryview(b"".join(batch))
        written = os.write(descriptor, data)
        if written < len(data):
            # A full disk takes a part. End the torn line so that the next one stands alone; the
            # batch comes again, and readers skip what is not JSON.
            with contextlib.suppress(OSError):
                os.write(descriptor, b"\n")
            raise OSError(f"{self._path}: only {written} of {len(data)} bytes could be written")
        if os.fstat(descriptor).st_size > self._max_bytes:
            self._rotate(descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is not None and not _is_same(self._descriptor, self._path):
            self.close()
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self._path, flags, 0o640)
        return self._descriptor

    def _rotate(self, descriptor: int) -> None:
        lock = os.open(f"{self._path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_same(descriptor, self._path):
                return  # another worker was first
            for number in range(self._backups - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self._path}.{number}").replace(f"{self._path}.{number + 1}")
            if self._backups:
                self._path.replace(f"{self._path}.1")
            else:
                self._path.unlink(missing_ok=True)
        finally:
            os.close(lock)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
