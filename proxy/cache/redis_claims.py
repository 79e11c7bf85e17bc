"""The claims of all nodes, in the Redis of ``CACHE_URL``.

A response never streams through Redis. A node that finds a key claimed by another one waits for the
entry in the cache, and then reads that. It waits no longer than the claim that it found holds, for
a response may take minutes; after that it sends the request itself.

A claim is one string, `op:f:{scope}:digest`, with an owner token and a time to live. It is renewed
while its flight lasts, and deleted only by the owner whose token it has: an owner that was away for
longer than its lease must not free the claim of the next one.

Failures are no errors. For some seconds after one, nothing is asked and nothing is claimed.
"""

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from cachetools import TTLCache
from redis import RedisError

from proxy.cache.claims import LEASE_SECONDS, JoinHere
from proxy.cache.fetched import Fetched, NoResponse, NotShared
from proxy.cache.key import CacheKey
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.runtime.redis_connections import RedisConnections, reply_to

#: Both scripts: the key, the owner token; the second also the milliseconds of the lease.
_DELETE: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)
_RENEW: Final = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then "
    "return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
)
#: For the connect and for each read, then for the whole call. A request waits for it.
_TIMEOUT_SECONDS: Final = 0.1
_DEADLINE_SECONDS: Final = 0.2
_MAX_CONNECTIONS: Final = 8
#: Seconds for which Redis is left alone after a failure.
_PAUSE_SECONDS: Final = 5.0
#: Seconds between two looks for the entry: twice as long each time.
_FIRST_POLL_SECONDS: Final = 0.05
_LAST_POLL_SECONDS: Final = 1.0
#: An entry that is about to come is worth so many seconds, whatever is left of the lease.
_LEAST_WAIT_SECONDS: Final = 2.0
#: A claim that had longer to live when it was seen last, and is gone, was released by its owner.
_EXPIRY_SECONDS: Final = 2 * _LAST_POLL_SECONDS
#: Keys whose claims are not heeded, since waiting for them took too long. Beyond that, those of the
#: oldest are heeded again.
_MAX_UNHEEDED: Final = 8192

_log = logging.getLogger(__name__)


class RedisClaims:
    """The claims of one worker, and its view of the other nodes'.

    `url` is a `redis://` or `rediss://` URL; the first call connects. `is_stored` returns whether
    the cache has an entry for the key. It may wait and does not raise.
    """

    def __init__(
        self,
        url: str,
        is_stored: Callable[[CacheKey], bool],
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = gevent.sleep,
    ) -> None:
        self._connections = RedisConnections(url, most=_MAX_CONNECTIONS, timeout=_TIMEOUT_SECONDS)
        self._is_stored = is_stored
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._sleep = sleep
        self._quiet_until = 0.0
        # Keys whose claims are not heeded, for as long as a lease lasts.
        self._unheeded: TTLCache[CacheKey, None] = TTLCache(_MAX_UNHEEDED, lease_seconds, clock)
        #: The claims of this worker.
        self._claims: set[RedisClaim] = set()
        self._renewal = PeriodicTask(
            self.renew_all,
            lambda: self._lease_seconds / 3 if self._claims else None,
            failure="flights: the claims among the nodes could not be renewed",
            log=_log,
        )
        self._is_closed = False
        self._log = FailureLog(_log.log, "flights", "cannot be shared between the nodes")

    #: See :class:`proxy.cache.claims.Claims`.
    streams = False

    def serve(self, join: JoinHere) -> None:
        """Do nothing: nobody reads a flight through Redis."""

    def take(self, key: CacheKey) -> "RedisClaim | EntryElsewhere | None":
        if not self._heeds(key):
            return None
        token = secrets.token_hex(16)
        lease = int(self._lease_seconds * 1000)
        taken = self._call("SET", _name(key), token, "NX", "PX", lease)
        if taken is not None:
            claim = RedisClaim(self, key, token)
            self._claims.add(claim)
            self._renewal.start()
            return claim
        return EntryElsewhere(self, key) if self.works else None

    def find(self, key: CacheKey) -> "EntryElsewhere | None":
        return EntryElsewhere(self, key) if self._heeds(key) and self._left(key) > 0 else None

    def close(self) -> None:
        for claim in list(self._claims):
            claim.release()
        self._is_closed = True
        self._renewal.kill()
        self._connections.close()

    @property
    def works(self) -> bool:
        """Whether Redis is asked now."""
        return not self._is_closed and self._clock() >= self._quiet_until

    def delete(self, claim: "RedisClaim") -> None:
        """Delete a claim of this worker. Where that fails, it ends with its lease."""
        if claim in self._claims:
            self._claims.discard(claim)
            self._call("EVAL", _DELETE, 1, _name(claim.key), claim.token)

    def wait(self, key: CacheKey) -> None:
        """Wait until there is an entry, or the claim is gone, or it took too long.

        Raises NotShared where the owner has ended without an entry, so that not all nodes wait for
        one another in turn.
        """
        left = self._left(key)
        until = self._clock() + max(_LEAST_WAIT_SECONDS, left)
        pause = _FIRST_POLL_SECONDS
        while True:
            seen, left = left, self._left(key)
            # In this order: the owner stores first, and releases its claim then.
            if self._is_stored(key) or not self.works:
                return
            if left <= 0:
                if seen > _EXPIRY_SECONDS:
                    raise NotShared
                return
            if self._clock() + pause > until:
                self._unheeded[key] = None
                return
            self._sleep(pause)
            pause = min(2 * pause, _LAST_POLL_SECONDS)

    def _left(self, key: CacheKey) -> float:
        """Return the seconds that the claim of the key has left, 0 where there is none."""
        left = self._call("PTTL", _name(key))
        return 0.0 if left is None else max(0, left) / 1000

    def _heeds(self, key: CacheKey) -> bool:
        return self.works and key not in self._unheeded

    def renew_all(self) -> None:
        lease = int(self._lease_seconds * 1000)
        for claim in list(self._claims):
            self._call("EVAL", _RENEW, 1, _name(claim.key), claim.token, lease)

    def _call(self, *command: str | int) -> Any:
        """Return the reply, None also after a failure."""
        if not self.works:
            return None
        try:
            reply = self._connections.call(
                lambda connection: reply_to(connection, *command), _DEADLINE_SECONDS
            )
        except (RedisError, OSError) as error:
            self._quiet_until = self._clock() + _PAUSE_SECONDS
            self._log.failed(error)
            return None
        self._log.worked()
        return reply


class RedisClaim:
    """A key that this worker has claimed among all nodes."""

    __slots__ = ("_claims", "key", "token")

    def __init__(self, claims: RedisClaims, key: CacheKey, token: str) -> None:
        self._claims = claims
        self.key = key
        self.token = token

    def release(self) -> None:
        self._claims.delete(self)


class EntryElsewhere:
    """The entry that another node is about to store."""

    __slots__ = ("_claims", "_key")

    def __init__(self, claims: RedisClaims, key: CacheKey) -> None:
        self._claims = claims
        self._key = key

    def fetch(self) -> Fetched:
        """Wait for the entry. It is found in the cache: there is never a response here."""
        self._claims.wait(self._key)
        raise NoResponse


def _name(key: CacheKey) -> str:
    return f"op:f:{{{key.scope}}}:{key.digest.hex()}"
