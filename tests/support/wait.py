"""Wait for a condition, not for time to pass."""

import time
from collections.abc import Callable

import gevent


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Fails after `seconds`. The limit only ends a broken test."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        gevent.sleep(0.01)
