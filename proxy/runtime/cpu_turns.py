"""Short turns for work beside the workers.

The thing to get wrong: to be nice is not enough. Linux lets what has slept run on for some
milliseconds before it looks at who else has woken up meanwhile, whatever the nice of either. A
request of a worker on the same core would wait as long.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")

#: Items between two offers; each takes tens of microseconds.
_STRETCH: Final = 4


def yield_cpu_every(items: Iterable[T]) -> Iterator[T]:
    """``items``; every few of them the core is offered to whoever waits for it."""
    for number, item in enumerate(items):
        if number % _STRETCH == 0:
            os.sched_yield()
        yield item
