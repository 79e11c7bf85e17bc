"""Asks all workers of a server, where each must know what was changed."""

from collections.abc import Callable

import gevent


def all_workers(asked: Callable[[], bool], *, requests: int = 12, rounds: int = 3) -> bool:
    """Return whether `asked` is true for many requests at the same time, several times in a row.

    One after the other, requests on new connections may all reach one worker that has nothing else
    to do; at the same time, they reach every worker.
    """
    for _ in range(rounds):
        asking = [gevent.spawn(asked) for _ in range(requests)]
        gevent.joinall(asking, raise_error=True)
        if not all(each.value for each in asking):
            return False
    return True
