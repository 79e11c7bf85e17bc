"""The locks of the spool: of a writer's folder, and of the node (see :mod:`proxy.events.spool`).

Note: a folder may be removed between opening and locking its lock file. So `acquire` checks, with
the lock held, that the file still has that name.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.runtime import filelock

_NAME: Final = "lock"


class SpoolLock:
    """The lock of one folder, held until :meth:`release`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def acquire(folder: Path, *, wait: bool = False) -> SpoolLock | None:
    """Lock `folder`. Returns None when it is locked or removed. Raises OSError.

    `wait` is for the process that has just made the folder: only :func:`is_owned` can hold the
    lock then, for a moment.
    """
    path = folder / _NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        if wait:
            filelock.lock(descriptor)
        if (wait or filelock.try_lock(descriptor)) and filelock.is_same_file(descriptor, path):
            return SpoolLock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_owned(folder: Path) -> bool:
    """Whether a running process owns `folder`. Holds a shared lock for a moment itself."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not filelock.try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def remove_lock(folder: Path) -> None:
    """Remove the lock file, by its owner, as the last file of a folder."""
    (folder / _NAME).unlink(missing_ok=True)


@contextlib.contextmanager
def node_lock(root: Path) -> Iterator[None]:
    """Let one process of the node at a time make a folder or look for abandoned ones.

    Without it a folder that was just made, and is not locked yet, would pass for abandoned. Held
    for moments.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        filelock.lock(descriptor)
        yield
    finally:
        os.close(descriptor)
