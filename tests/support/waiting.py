"""Waiting for something to become true, instead of for time to pass."""

import time
from collections.abc import Callable

import gevent


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Fails after ``seconds``, which is only there so that a broken test ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        gevent.sleep(0.01)
