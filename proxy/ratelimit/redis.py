"""Buckets in Redis: exact over all workers and nodes, in one script call by the server's clock.

A request waits for this call. So it has short timeouts, one deadline for all of it and no retry;
the caller decides what a failure means.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from redis import RedisError
from redis.exceptions import NoScriptError

from proxy.core.errors import LimiterError
from proxy.ratelimit.limiter import Bucket, Charge, Decision
from proxy.ratelimit.token_bucket import DEBT_MINUTES
from proxy.runtime.redis_connections import RedisConnections, reply_to

#: A Redis cluster places keys by the part in braces: all keys of a call must be on one node.
_PREFIX: Final = "proxy:{limits}:"
#: For the connect, and for each read. A Redis nearby responds within a millisecond; one that takes
#: longer than this delays requests more than its exactness is worth.
_TIMEOUT_SECONDS: Final = 0.25
#: For the whole call.
_DEADLINE_SECONDS: Final = 0.5
#: Per worker; a call holds one for less than a millisecond. If a hundred requests that arrive at
#: once opened a hundred connections, that alone would take longer than the timeout.
_MAX_CONNECTIONS: Final = 16


class RedisLimiter:
    """Many greenlets may call it at once; each has a connection of its own while it waits.

    Raises LimiterError when Redis does not respond as expected; permits may have been taken.
    """

    @classmethod
    def from_url(cls, url: str, *, connections: int = _MAX_CONNECTIONS) -> "RedisLimiter":
        """Return a limiter for a `redis://` or `rediss://` URL. The first call connects."""
        return cls(RedisConnections(url, most=connections, timeout=_TIMEOUT_SECONDS))

    def __init__(self, connections: RedisConnections) -> None:
        self._connections = connections
        self._script = Path(__file__).with_name("token_bucket.lua").read_text()
        # The name that Redis gives to the script.
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def take(self, charges: Sequence[Charge]) -> Decision:
        if not charges:
            return Decision([])
        refused, *remaining = self._call("take", charges)
        return Decision([float(level) for level in remaining], refused - 1 if refused else None)

    def peek(self, bucket: Bucket) -> float:
        return bucket.per_minute

    def debit(self, charges: Sequence[Charge]) -> None:
        if charges:
            self._call("debit", charges)

    def close(self) -> None:
        self._connections.close()

    def _call(self, action: str, charges: Sequence[Charge]) -> Any:
        arguments: list[str | int] = [_PREFIX + bucket.key for bucket, _ in charges]
        arguments += (action, DEBT_MINUTES)
        for (_, per_minute), permits in charges:
            arguments += (per_minute, permits)

        def run(connection: Any) -> Any:
            try:
                return reply_to(connection, "EVALSHA", self._sha, len(charges), *arguments)
            except NoScriptError:  # the server was restarted, or flushed its scripts
                return reply_to(connection, "EVAL", self._script, len(charges), *arguments)

        try:
            return self._connections.call(run, _DEADLINE_SECONDS)
        except (RedisError, OSError) as error:
            raise LimiterError from error
