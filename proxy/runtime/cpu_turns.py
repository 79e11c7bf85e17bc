"""Short turns on the CPU for processes beside the workers.

Note: a nice value is not enough. Linux lets a process that has slept run for some milliseconds
before it considers others that have woken up meanwhile, whatever the nice value of either. A
request of a worker on the same core would wait as long.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

#: Items between two yields; each item takes tens of microseconds.
_ITEMS_PER_TURN: Final = 4


def yield_cpu_every(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, and yield the CPU to waiting processes after every few of them."""
    for number, item in enumerate(items):
        if number % _ITEMS_PER_TURN == 0:
            os.sched_yield()
        yield item
