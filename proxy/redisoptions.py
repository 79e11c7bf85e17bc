"""How Redis is spoken to, whatever for. Imported only by what is loaded where there is one.

The thing to get wrong: the library's own ten retries would hide an outage for minutes. Whoever
calls is told of every failure at once, and decides about another try.
"""

from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry


def connection_options(connect: float, read: float, *, retries: int = 0) -> dict[str, Any]:
    """For ``from_url`` of a client or pool; ``connect`` and ``read`` are timeouts in seconds."""
    return {
        "protocol": 2,  # whose answers have the same shape in every version
        "socket_connect_timeout": connect,
        "socket_timeout": read,
        "retry": Retry(NoBackoff(), retries),
        # No PING before a call: the pool sees by itself that an idle connection was closed.
        "health_check_interval": 0,
    }
