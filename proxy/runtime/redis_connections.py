"""Connections to Redis for calls that a request waits for: each has one deadline for all of it.

The library's client does the same, for three times the cost of a call.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import gevent
from gevent.lock import Semaphore
from redis import ConnectionPool

from proxy.runtime.redis import ReadOnlyServer, connection_options

_Result = TypeVar("_Result")


class RedisConnections:
    """The connections of one worker to a Redis. Each call has one of its own while it runs.

    Args:
        url: `redis://`, `rediss://` or `unix://`. The first call connects.
        most: Connections at most; further calls wait for one.
        timeout: Seconds for a connect, and for each read.
    """

    def __init__(self, url: str, *, most: int, timeout: float) -> None:
        options = connection_options(timeout, timeout, url=url)
        self._pool = ConnectionPool.from_url(url, max_connections=most, **options)
        self._free = Semaphore(most)

    def call(self, work: Callable[[Any], _Result], seconds: float) -> _Result:
        """Return `work(connection)`. `seconds` are for all of it, with the wait for a connection.

        The timeout alone does not cover that wait, the lookup of a name, several addresses behind
        it, or bytes that arrive one by one. Raises RedisError, or OSError.
        """
        try:
            with gevent.Timeout(seconds, TimeoutError("no response in time")), self._free:
                connection: Any = self._pool.get_connection()
                try:
                    return work(connection)
                finally:
                    # A call that ended in the middle has closed the connection.
                    self._pool.release(connection)
        except ReadOnlyServer:
            # The idle connections are as old as this one, and lead to the same server.
            self._pool.disconnect(inuse_connections=False)
            raise

    def close(self) -> None:
        self._pool.disconnect()


def reply_to(connection: Any, *command: str | int) -> Any:
    """Send one command and return its reply. Raises ResponseError for an error reply."""
    connection.send_command(*command)
    return connection.read_response()
