"""Events to a file of JSON lines, rotated by size, shared by all workers of a node.

Note: several processes append, and any of them may rotate. A writer holds the lock of the open file
(``flock``) and checks, with the lock held, that the file still has this name. So a batch is written
completely or not at all, and never into a file that has been moved away.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from proxy.runtime import filelock

_log = logging.getLogger(__name__)


class JsonLinesSink:
    """Appends to ``path``; past ``max_bytes`` it becomes ``path.1``, up to ``path.<backups>``."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int, mode: int = 0o600) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._mode = mode
        self._descriptor: int | None = None
        self._stuck = False

    def write(self, batch: Sequence[bytes]) -> None:
        """Raises OSError (a full disk, no permission); a part that was written is cut off again."""
        descriptor = self._locked()
        try:
            size = os.fstat(descriptor).st_size
            data = b"".join(batch)
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a process was killed in the middle of a line
            _write_all(descriptor, data, size)
            if size + len(data) > self._max_bytes:
                self._rotate()
        finally:
            filelock.unlock(descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _locked(self) -> int:
        """The descriptor of the file that has this name, open and locked."""
        while True:
            if self._descriptor is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._descriptor = os.open(self._path, flags, self._mode)
            filelock.lock(self._descriptor)
            if filelock.is_same_file(self._descriptor, self._path):
                return self._descriptor
            self.close()  # which unlocks it

    def _rotate(self) -> None:
        """Rotate. The file itself moves last: then others make, and may rotate, a new one."""
        try:
            for number in range(self._backups - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self._path}.{number}").replace(f"{self._path}.{number + 1}")
            if self._backups:
                self._path.replace(f"{self._path}.1")
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            # The batch is written. If this were raised, the batch would be written again and again,
            # so the file grows instead.
            if not self._stuck:
                _log.error("%s cannot be rotated: %s", self._path, error)
            self._stuck = True
        else:
            self._stuck = False


def _write_all(descriptor: int, data: bytes, size: int) -> None:
    """Append all of `data` to a file of `size` bytes, or nothing."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]  # a full disk takes a part first
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
