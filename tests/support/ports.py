"""Ports for servers that take theirs from a setting. Each belongs to one test process.

Asking the kernel for any port and letting it go again does not do: until the server has it, another
run of the tests or a connection to somewhere may be given the same one. So a process reserves a
block of ports for its lifetime, with a lock on a file that every run on this machine looks at; the
blocks are below the range out of which the kernel gives ports away.
"""

import fcntl
import functools
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

FIRST, LAST, BLOCK = 12_000, 32_000, 200


@functools.cache
def _reserved() -> Iterator[int]:
    """One after the other, round and round: a port rests before it is used again."""
    folder = Path(tempfile.gettempdir()) / f"proxy-tests-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(FIRST, LAST, BLOCK):
        lock = os.open(folder / str(first), os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return itertools.cycle(range(first, first + BLOCK))  # the process's end unlocks it
    raise AssertionError(f"every block is locked: {folder}")


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, and that no other test process is given."""
    for port in itertools.islice(_reserved(), BLOCK):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port of this process is in use")
