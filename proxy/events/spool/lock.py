"""Whose folder is it? A writer holds the lock (``flock``) of its folder's file ``lock``.

The kernel lets go of it when the process ends, however it ends: a folder whose lock is free is an
orphan. The thing to get wrong: a folder may be removed between opening and locking its file, so
whoever has the lock looks whether it is still the file of that name.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.runtime import filelock

_NAME: Final = "lock"


class SpoolLock:
    """A lock that is held until :meth:`release`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def acquire(folder: Path, *, wait: bool = False) -> SpoolLock | None:
    """Take ``folder``; None when somebody else has it or it is gone. Raises OSError.

    ``wait`` for who only looks (:func:`is_owned`): for the maker of a folder, whom nobody else
    can be before.
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
    """Whether a living process has it. For a moment this holds a shared lock itself."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not filelock.try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def remove_lock(folder: Path) -> None:
    """The last file of a folder to go, by its owner."""
    (folder / _NAME).unlink(missing_ok=True)


@contextlib.contextmanager
def node_lock(root: Path) -> Iterator[None]:
    """One process of the node at a time: to make a folder, to look for orphans. Held for moments.

    Without it a folder that was just made, and not yet locked, would be taken for an orphan.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        filelock.lock(descriptor)
        yield
    finally:
        os.close(descriptor)
