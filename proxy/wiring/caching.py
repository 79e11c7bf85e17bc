"""The response cache of one worker, made when a request first needs it."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import gevent
from gevent.lock import RLock

from proxy.cache.claims import Claims
from proxy.cache.flight_claims import NodeClaims
from proxy.cache.flights import Flights
from proxy.cache.idempotency import Idempotency
from proxy.cache.key import CacheKey, KeyMaker
from proxy.cache.purge_follower import PurgeFollower
from proxy.cache.request_reader import RequestReader
from proxy.cache.response_cache import ResponseCache
from proxy.core.errors import ProxyError
from proxy.gateway.caching import CachedRequests, CachingOptions, OpenCache
from proxy.metrics.cache_counts import CacheCounts
from proxy.providers.base import Target
from proxy.runtime.failure_log import FailureLog
from proxy.settings.settings import Settings
from proxy.store.cache_purges import CachePurges
from proxy.wiring.accounts import AccountServices, response_lifetime
from proxy.wiring.cache import response_cache
from proxy.wiring.cache_secret import cache_secret

_log = logging.getLogger(__name__)

#: Seconds after a failure in which the cache is not opened again.
_PAUSE_SECONDS: Final = 5.0
#: Below `DATA_DIR`: where the workers of the node find each other's flights.
FLIGHTS_FOLDER: Final = "flights"


class WorkerCaching:
    """What a worker has of the cache. Where no project asks for it, nothing is opened."""

    def __init__(
        self,
        settings: Settings,
        accounts: AccountServices,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        cache = settings.cache
        self._clock = clock
        self._failed_at = -math.inf
        self._failures = FailureLog(
            _log.log, "response cache", "it cannot be opened, so nothing is cached"
        )
        self._settings = settings
        self._secret = cache_secret(settings, accounts)
        self._lock = RLock()
        self._open: OpenCache | None = None
        self._is_closed = False
        self.flights = Flights(
            entry_bytes=cache.max_entry_bytes, claims=self._claims(settings.data_dir, cache.url)
        )
        self.requests = CachedRequests(
            self.open,
            self.flights,
            Target.from_url(settings.upstream.base_url),
            CachingOptions(
                ttl=cache.ttl,
                stale_if_error=cache.stale_if_error,
                max_entry_bytes=cache.max_entry_bytes,
                idempotency=cache.idempotency_ttl > 0,
                idempotency_scope="cluster" if cache.url else "node",
            ),
            count_hit=_nothing if settings.auth.passthrough else accounts.authenticator.count_hit,
        )
        self.purges = CachePurges(accounts.database)
        # In pass-through mode there is no database, and nobody who could purge.
        self._follower: PurgeFollower | None = None
        if not settings.auth.passthrough:
            self._follower = PurgeFollower(self.purges, response_lifetime(settings))
            accounts.listeners.append(self._follower.changed)

    @property
    def cache(self) -> ResponseCache | None:
        """The cache, if any request has needed it."""
        return None if self._open is None else self._open.cache

    def open(self) -> OpenCache | None:
        """Return the cache, or None while it cannot be opened: no request fails for that."""
        if self._open is None and not self._is_closed:
            # In a greenlet of its own: a client that leaves must not end it half way.
            gevent.spawn(self._make).get()
        return self._open

    def opened_cache(self) -> ResponseCache | None:
        """Return the cache where responses are stored on this node; it is opened if need be."""
        if self._settings.cache.ttl:
            self.open()
        return self.cache

    def counts(self) -> CacheCounts | None:
        """Return what the metrics show. Takes microseconds. None: there is no cache so far."""
        opened, flights = self._open, self.flights.figures()
        if opened is None:
            if not self._settings.cache.ttl:
                return None
            return CacheCounts(
                limit_bytes=self._settings.cache.max_bytes,
                results=self.requests.results,
                flights=flights.flights,
                readers=flights.readers,
            )
        size, counts = opened.cache.size(), opened.cache.counts()
        return CacheCounts(
            entries=size.items,
            bytes=size.bytes,
            limit_bytes=size.limit,
            results=self.requests.results,
            evictions=counts.evictions,
            rejected=counts.rejected,
            errors=counts.errors,
            flights=flights.flights,
            readers=flights.readers,
            idempotent=opened.idempotency.states,
        )

    @property
    def is_busy(self) -> bool:
        """Whether responses are still read, although their clients have left or are elsewhere."""
        return self.flights.is_busy

    def cut(self) -> None:
        """Break off the responses that are still read. It does not wait."""
        self.flights.cut(ProxyError(code="draining", retry_after=1))

    def close(self, deadline: float) -> None:
        """Stop the flights and write what waits, for at most `deadline` seconds."""
        self._is_closed = True
        if self._follower is not None:
            self._follower.close()
        self.flights.stop(seconds=deadline / 2)
        if self._open is not None:
            self._open.idempotency.close()
            self._open.cache.close(deadline / 2)

    def _claims(self, data_dir: Path, url: str) -> list[Claims]:
        """Return the claims among the workers of the node, then those among the nodes."""
        claims: list[Claims] = [NodeClaims(data_dir.absolute() / FLIGHTS_FOLDER)]
        if url:
            # Loaded only where there is a Redis.
            from proxy.cache.redis_claims import RedisClaims

            claims.append(RedisClaims(url, self._is_stored))
        return claims

    def _is_stored(self, key: CacheKey) -> bool:
        return self.cache is not None and self.cache.get(key) is not None

    def _make(self) -> None:
        with self._lock:
            paused = self._clock() - self._failed_at < _PAUSE_SECONDS
            secret = None if self._open is not None or paused else self._secret.get()
            if secret is None:
                return
            try:
                self._open = self._opened(secret)
            except Exception as error:  # noqa: BLE001  (a defect, and requests go on without)
                self._failed_at = self._clock()
                self._failures.failed(error, traceback=True)
            else:
                self._failures.worked()

    def _opened(self, secret: bytes) -> OpenCache:
        cache = response_cache(self._settings, secret)
        try:
            cache.start()
            if self._follower is not None:
                # What was purged while no worker was there must not be served.
                self._follower.follow(cache)
        except Exception:
            # A process must not open the store's file twice.
            cache.close(_PAUSE_SECONDS)
            raise
        options = self._settings.cache
        reader = RequestReader(
            KeyMaker(secret), ttl=options.ttl, stale_if_error=options.stale_if_error
        )
        idempotency = Idempotency(cache.records, ttl=options.idempotency_ttl)
        return OpenCache(cache, reader, idempotency)


def _nothing(_: object) -> None:
    """In pass-through mode no access token counts."""
