"""Sockets and greenlets that a test has open."""

import weakref
from pathlib import Path

from gevent import Greenlet

#: Filled by a fixture while a test runs.
SPAWNED: weakref.WeakSet[Greenlet] = weakref.WeakSet()


def sockets() -> int:
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            found += str(link.readlink()).startswith("socket:")
        except FileNotFoundError:  # the one that lists the folder
            continue
    return found


def greenlets() -> int:
    """Spawned by the test and not ended; servers and their connections are not counted."""
    return sum(not one.dead and "_serve" not in repr(one) for one in list(SPAWNED))
