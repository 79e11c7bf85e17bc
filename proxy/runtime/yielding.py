"""Turns of the event loop, for work that never has to wait.

gevent switches where a greenlet waits, and nowhere else. ``recv`` and ``send`` wait only while the
kernel has no bytes or no room, so a loop over the bytes of a peer that is always ready holds the
loop for as long as the peer likes; so does a loop over a large body in memory. Such loops call
:func:`turn_if_due` every few KiB.

Note: ``gevent.sleep(0)`` is no such turn. It runs callbacks, and looks at the sockets only after
they have taken ``gevent.getswitchinterval()`` (5 ms).
"""

import time
from collections.abc import Iterable
from typing import Any, Final

import gevent
import gevent.socket

#: Seconds that one greenlet may hold the loop.
SLICE: Final = 0.002
#: Bytes that are parsed between two looks at the clock: a millisecond or two of work, where every
#: few of them mean something.
STEP: Final = 4 * 1024
#: Seconds. Any timer makes the loop look at its sockets before the greenlet goes on.
_MOMENT: Final = 1e-6


def turn() -> None:
    """Let every greenlet run that is ready, those included whose sockets became ready meanwhile.

    As any wait, it may raise what is thrown into the greenlet.
    """
    gevent.sleep(_MOMENT)


def turn_if_due() -> None:
    """:func:`turn` once the loop has not looked at its sockets for :data:`SLICE` seconds."""
    # The loop's own clock stands still from one look to the next: there is nothing to remember.
    if time.time() - gevent.get_hub().loop.now() > SLICE:
        gevent.sleep(_MOMENT)


def wait_for_bytes(sock: Any, seconds: float) -> None:
    """Until the gevent socket ``sock`` can be read, whatever its own timeout. Raises TimeoutError.

    Other greenlets may meanwhile write to it.
    """
    gevent.socket.wait(sock._read_event, seconds)  # noqa: SLF001  (`wait_read` makes another)


def in_turns(steps: Iterable[object]) -> None:
    """Take all ``steps``, with turns between them.

    Raises what was thrown into the greenlet meanwhile, once the last step has been taken.
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
    """All of them as one, copied on a thread: many MiB would take tens of milliseconds.

    ``bytes.join`` lets other threads run meanwhile, the loop's among them.
    """
    whole: bytes = gevent.get_hub().threadpool.apply(b"".join, (pieces,))
    return whole
