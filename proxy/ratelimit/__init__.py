"""Rate limits: who may ask how often. :func:`open_limiter` puts the parts together.

With Redis: Redis; when it fails, the table of the node or nobody, as ``on_error`` says. Without:
the table of the node. When the table fails (its lock is kept by a process that does not go on, its
disk is full) each process decides with buckets of its own, whatever ``on_error`` says: N workers
then let through at most N times as much, and none lets through everything.

The thing to get wrong: making one before the fork. Each worker opens its own files and connections.
"""

from pathlib import Path
from typing import Final

from proxy.ratelimit.failover import FailoverLimiter
from proxy.ratelimit.node import NodeLimiter
from proxy.ratelimit.process import ProcessLimiter

_TABLE: Final = "buckets-1"


def make_table(folder: Path) -> None:
    """Make the table of the node before a worker accepts, unless it is there.

    Two workers that met at their first requests might judge them by buckets of their own, while one
    of them makes the file. Never raises: a limiter says so when its table cannot be made.
    """
    limiter = NodeLimiter(folder / _TABLE)
    limiter.prepare()
    limiter.close()


def open_limiter(*, redis_url: str, on_error: str, folder: Path) -> FailoverLimiter:
    """``redis_url`` may be empty; ``on_error`` is ``open`` or ``closed``; ``folder`` is the node's.

    Nothing is connected or opened before the first call.
    """
    node = FailoverLimiter(
        NodeLimiter(folder / _TABLE), ProcessLimiter(), name="the table of this node"
    )
    if not redis_url:
        return node
    # Only here: the library is megabytes that a worker without it need not have.
    from proxy.ratelimit.redis import RedisLimiter

    net = None if on_error == "closed" else node
    return FailoverLimiter(RedisLimiter.from_url(redis_url), net, name="Redis")
