"""Retries of transactions that lost against another: the loser was rolled back whole."""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from proxy.store.dialects import Conflict, Deadlock

T = TypeVar("T")

_ATTEMPTS: Final = 6


def persistently(call: Callable[[], T]) -> T:
    """Returns the result of ``call``, which is run again after a pause while it raises Conflict or
    Deadlock. The last attempt's error propagates."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return call()
        except (Deadlock, Conflict):
            time.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - only to part the two
    return call()
