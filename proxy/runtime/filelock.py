"""Locks on files between processes (`flock`).

The kernel releases a lock when its process ends, however it ends. A lock belongs to the open file,
not to its name and not to the process.

Note: a file may be replaced or removed between opening and locking it. A process that found the
file by its name must check with :func:`is_same_file`, while it holds the lock, that the name still
leads to this file.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

#: Seconds between two tries of a lock with a timeout.
_RETRY_INTERVAL: Final = 0.005


def lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock the open file, and wait for as long as another process holds it. Raises OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock the open file if no other process holds it. Returns whether it is locked.

    A shared lock lets others have shared locks. Raises OSError where the file cannot be locked.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Release the lock of the open file; closing its last descriptor does the same."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def poll_lock(descriptor: int, timeout: float, *, shared: bool = False) -> bool:
    """Try to lock the open file for `timeout` seconds. Returns whether it is locked.

    A file that cannot be locked counts as locked by another process.
    """
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if try_lock(descriptor, shared=shared):
                return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_RETRY_INTERVAL)
