"""Buckets in Redis: exact over all workers and nodes, in one script call by the server's clock.

The thing to get wrong: waiting. A request stands behind this call, so that it has short timeouts,
one deadline for all of it and no second try. What comes then is for the caller to decide.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.lock import Semaphore
from redis import ConnectionPool, RedisError
from redis.exceptions import NoScriptError

from proxy.core.errors import LimiterError
from proxy.ratelimit.limiter import Bucket, Charge, Decision
from proxy.ratelimit.token_bucket import DEBT_MINUTES
from proxy.runtime.redis import ReadOnlyServer, connection_options

#: In braces is what a cluster places keys by: all of a call have to lie on one node.
_PREFIX: Final = "proxy:{limits}:"
#: Seconds for connecting, and for each read. A Redis nearby answers within a millisecond; one that
#: takes longer than this delays requests more than its exactness is worth.
_TIMEOUT: Final = 0.25
#: For all of it. The timeout above knows nothing of the wait for a connection, nor of a name that
#: is looked up, several addresses behind it, or bytes that come one by one.
_DEADLINE: Final = 0.5
#: Of one worker, in turns; a call has one for less than a millisecond. If a hundred requests that
#: come at once opened a hundred connections, that alone would take longer than the timeout.
_CONNECTIONS: Final = 16


class RedisLimiter:
    """Greenlets call it at once; each has a connection of its own while it waits.

    LimiterError: Redis did not answer, or not as it should; permits may have been taken.
    """

    @classmethod
    def from_url(cls, url: str, *, connections: int = _CONNECTIONS) -> "RedisLimiter":
        """``redis://`` or ``rediss://``. Nothing is connected before the first call."""
        options = connection_options(_TIMEOUT, _TIMEOUT, url=url)
        return cls(ConnectionPool.from_url(url, max_connections=connections, **options))

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._free = Semaphore(pool.max_connections)
        self._script = Path(__file__).with_name("token_bucket.lua").read_text()
        # The name that Redis has for a script.
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def take(self, demands: Sequence[Charge]) -> Decision:
        if not demands:
            return Decision([])
        refused, *levels = self._call("take", demands)
        return Decision([float(level) for level in levels], refused - 1 if refused else None)

    def peek(self, bucket: Bucket) -> float:
        return bucket.per_minute

    def settle(self, charges: Sequence[Charge]) -> None:
        if charges:
            self._call("settle", charges)

    def close(self) -> None:
        self._pool.disconnect()

    def _call(self, action: str, demands: Sequence[Charge]) -> Any:
        arguments: list[str | int] = [_PREFIX + bucket.key for bucket, _ in demands]
        arguments += (action, DEBT_MINUTES)
        for (_, per_minute), permits in demands:
            arguments += (per_minute, permits)
        try:
            with gevent.Timeout(_DEADLINE, TimeoutError("no answer in time")), self._free:
                try:
                    return self._run("EVALSHA", self._sha, len(demands), *arguments)
                except NoScriptError:  # a server that has been started or flushed since
                    return self._run("EVAL", self._script, len(demands), *arguments)
        except (RedisError, OSError) as error:
            if isinstance(error, ReadOnlyServer):
                # The idle ones were made when that one was: they lead to the same server.
                self._pool.disconnect(inuse_connections=False)
            raise LimiterError from error

    def _run(self, *command: str | int) -> Any:
        # The library's client would do the same, for a third of the cost of the whole call.
        connection: Any = self._pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            # Whatever ended it in the middle has closed it.
            self._pool.release(connection)
