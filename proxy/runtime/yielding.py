"""Turns of the event loop, for work that never has to wait.

gevent switches where a greenlet waits, and nowhere else. `recv` and `send` wait only while the
kernel has no bytes or no room. So a loop over the bytes of a peer that is always ready holds the
event loop for as long as the peer likes, and so does a loop over a large body in memory. Such loops
call :func:`turn_if_due` every few KiB.

Note: `gevent.sleep(0)` is no such turn. It runs callbacks, and checks the sockets only after the
callbacks have taken `gevent.getswitchinterval()` (5 ms).
"""

import time
from collections.abc import Iterable
from typing import Any, Final

import gevent
import gevent.socket

#: Seconds for which one greenlet may hold the event loop.
SLICE: Final = 0.002
#: Bytes that are parsed between two looks at the clock: a millisecond or two of work where every
#: few bytes mean something.
STEP: Final = 4 * 1024
#: Any timer makes the event loop check its sockets before the greenlet goes on.
_TURN_SECONDS: Final = 1e-6


def turn() -> None:
    """Let all ready greenlets run, including those whose sockets became ready meanwhile.

    Like any wait, it raises an exception that is thrown into the greenlet.
    """
    gevent.sleep(_TURN_SECONDS)


def turn_if_due() -> None:
    """Take a :func:`turn` if the sockets have not been checked for :data:`SLICE` seconds."""
    # The loop's own clock stands still from one check to the next, so nothing must be remembered.
    if time.time() - gevent.get_hub().loop.now() > SLICE:
        gevent.sleep(_TURN_SECONDS)


def wait_for_bytes(sock: Any, seconds: float) -> None:
    """Wait until the gevent socket `sock` can be read, whatever its own timeout.

    Raises TimeoutError after `seconds`. Other greenlets may write to the socket meanwhile.
    """
    gevent.socket.wait(sock._read_event, seconds)  # noqa: SLF001  (`wait_read` makes another)


def in_turns(steps: Iterable[object]) -> None:
    """Consume all `steps`, with turns between them.

    An exception that is thrown into the greenlet meanwhile is raised after the last step.
    """
    thrown: BaseException | None = None
    for _ in steps:
        if thrown is None:
            try:
                turn_if_due()
            except BaseException as error:  # noqa: BLE001  (raised below)
                thrown = error
    if thrown is not None:
        raise thrown


def joined(pieces: list[bytes]) -> bytes:
    """Return the pieces joined. A thread copies them: many MiB would take tens of milliseconds.

    `bytes.join` lets other threads run meanwhile, including the event loop's.
    """
    whole: bytes = gevent.get_hub().threadpool.apply(b"".join, (pieces,))
    return whole
