"""Rate limits: requests and LLM tokens per minute. :func:`open_limiter` wires the limiters.

1. With Redis, Redis decides. When it fails, the table of the node decides, or every request is
   refused, as `on_error` says.
2. Without Redis, the table of the node decides.
3. When the table fails (a stopped process keeps its lock, its disk is full), each process decides
   with buckets of its own, whatever `on_error` says. N workers then let through at most N times
   as much, and none lets through everything.

Note: make a limiter after the fork. Each worker opens its own files and connections.
"""

from pathlib import Path
from typing import Final

from proxy.ratelimit.failover import FailoverLimiter
from proxy.ratelimit.node import NodeLimiter
from proxy.ratelimit.process import ProcessLimiter

_TABLE: Final = "buckets-1"


def make_table(folder: Path) -> None:
    """Make the table of the node, unless it exists. Call it before the worker accepts requests.

    Otherwise two workers with their first requests at the same time might use buckets of their own
    while one of them makes the file. Never raises: a limiter reports a table that cannot be made.
    """
    limiter = NodeLimiter(folder / _TABLE)
    limiter.prepare()
    limiter.close()


def open_limiter(*, redis_url: str, on_error: str, folder: Path) -> FailoverLimiter:
    """Return the limiter of one worker. Nothing is connected or opened before its first call.

    `redis_url` may be empty; `on_error` is `open` or `closed`; `folder` is the node's.
    """
    node = FailoverLimiter(
        NodeLimiter(folder / _TABLE), ProcessLimiter(), name="the table of this node"
    )
    if not redis_url:
        return node
    # Imported here, since the library takes megabytes that a worker without Redis can spare.
    from proxy.ratelimit.redis import RedisLimiter

    fallback = None if on_error == "closed" else node
    return FailoverLimiter(RedisLimiter.from_url(redis_url), fallback, name="Redis")
