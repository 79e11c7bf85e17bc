"""Buckets in Redis: exact over all workers and nodes, in one script call by the server's clock.

The thing to get wrong: waiting. A request stands behind this call, so that it has short timeouts
and no second try; a pool whose connections are all in use refuses instead of queueing. What comes
then is for the caller to decide.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import gevent
from redis import ConnectionPool, Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from proxy.errors import LimiterError
from proxy.limits.base import Decision, Demand
from proxy.limits.bucket import DEBT_MINUTES

#: In braces is what a cluster places keys by: all of a call have to lie on one node.
_PREFIX: Final = "proxy:{limits}:"
#: Seconds for connecting, and for each read. A Redis nearby answers within a millisecond; one that
#: takes longer than this delays requests more than its exactness is worth.
_TIMEOUT: Final = 0.25
#: For all of it. The timeouts above know nothing of a name that is looked up, nor of several
#: addresses behind it, nor of bytes that come one by one.
_DEADLINE: Final = 0.5
#: Of one worker: one per request that is just being decided, which takes a millisecond.
_CONNECTIONS: Final = 128


class RedisLimiter:
    """Greenlets call it at once; each has a connection of its own while it waits.

    LimiterError: Redis did not answer, or not as it should; permits may have been taken.
    """

    @classmethod
    def from_url(cls, url: str, *, connections: int = _CONNECTIONS) -> "RedisLimiter":
        """``redis://`` or ``rediss://``. Nothing is connected before the first call."""
        pool: ConnectionPool = ConnectionPool.from_url(
            url,
            protocol=2,  # whose answers have the same shape in every version
            max_connections=connections,
            socket_connect_timeout=_TIMEOUT,
            socket_timeout=_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            # No PING before a call: the pool sees by itself that an idle connection was closed.
            health_check_interval=0,
        )
        return cls(Redis(connection_pool=pool))

    def __init__(self, client: Redis) -> None:
        self._redis = client
        self._script = Path(__file__).with_name("bucket.lua").read_text()
        # The name that Redis has for a script.
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def take(self, demands: Sequence[Demand]) -> Decision:
        if not demands:
            return Decision([])
        refused, *levels = self._call("take", demands)
        return Decision([float(level) for level in levels], refused - 1 if refused else None)

    def settle(self, charges: Sequence[Demand]) -> None:
        if charges:
            self._call("settle", charges)

    def close(self) -> None:
        self._redis.connection_pool.disconnect()

    def _call(self, action: str, demands: Sequence[Demand]) -> Any:
        arguments: list[str | int] = [_PREFIX + bucket.key for bucket, _ in demands]
        arguments += (action, DEBT_MINUTES)
        for (_, per_minute), permits in demands:
            arguments += (per_minute, permits)
        run = cast(Any, self._redis.execute_command)
        try:
            with gevent.Timeout(_DEADLINE, TimeoutError("Redis did not answer in time")):
                try:
                    return run("EVALSHA", self._sha, len(demands), *arguments)
                except NoScriptError:  # a server that has been started or flushed since
                    return run("EVAL", self._script, len(demands), *arguments)
        except (RedisError, OSError) as error:
            raise LimiterError from error
