"""The cache of upstream responses: what a request asks, before and after the upstream.

Two tiers. The first is shared by the workers of the node and is asked in microseconds. The second,
a Redis, is there only where `CACHE_URL` names one. It is asked after a miss in the first, and what
it has is then kept in the first, too.

A failure of a tier is a miss, and is counted. Whatever a tier returns is checked: an entry of
another scope, or one that is no longer fresh, is never returned.
"""

import dataclasses
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from cachetools import LRUCache

from proxy.cache.backends.base import (
    Counts,
    FirstStore,
    Item,
    Records,
    Selection,
    Store,
    StoreFigures,
    StoreSize,
)
from proxy.cache.entry import CachedResponse, EntryUnreadable
from proxy.cache.key import CacheKey

#: Entries expire up to this part of their time to live early, so that what came as a burst does not
#: expire as a burst. Never late: the upstream or the client may have set the time.
_JITTER: Final = 0.05
#: Bytes of decoded responses that a worker keeps at hand, and of one of them.
RECENT_BYTES: Final = 1024 * 1024
_MAX_DECODED_BYTES: Final = 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheFigures:
    """The figures of the cache, for the management API. Without content; zeros where there is none.

    `node` are those of the first tier, with what this worker did not offer to it among `rejected`.
    `errors` are this worker's: failures by tier and kind, each of which was a miss or a response
    that was not kept.
    """

    node: StoreFigures = dataclasses.field(default_factory=StoreFigures)
    shared: StoreFigures | None = None
    errors: dict[str, int] = dataclasses.field(default_factory=dict)


class ResponseCache:
    """The cache of one worker.

    Args:
        store: The first tier.
        shared: The second tier, or None.
        max_entry: Bytes of the largest response that is kept.
        stale: Seconds for which an expired response is kept, to be served while the upstream fails.
        jitter: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        store: FirstStore,
        shared: Store | None = None,
        *,
        max_entry: int,
        stale: float = 0.0,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._shared = shared
        self._tiers: tuple[Store, ...] = (store,) if shared is None else (store, shared)
        #: Those that all nodes see, where there is a store that all nodes share.
        self.records: Records = self._tiers[-1]
        self._max_entry = max_entry
        self._stale = stale
        self._clock = clock
        self._jitter = jitter
        # Responses that were read last, each with the bytes that it was decoded from. A store that
        # returns the same object again has not changed it.
        self._decoded: LRUCache[bytes, tuple[bytes, CachedResponse]] = LRUCache(
            RECENT_BYTES, lambda known: len(known[0])
        )
        #: Responses that were not kept, by reason; and failures, by tier and kind.
        self.rejected: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def start(self) -> None:
        """Open the stores. Called after the fork."""
        for store in self._tiers:
            store.start()

    def close(self, deadline: float) -> None:
        """Write what waits, for at most `deadline` seconds."""
        for store in self._tiers:
            store.close(deadline / 2)

    def get(self, key: CacheKey, *, allow_stale: bool = False) -> CachedResponse | None:
        """Return the response that is kept under `key`, or None.

        With `allow_stale` it may have expired, by no more seconds than `CACHE_STALE_IF_ERROR`; the
        caller sees by `expires_at`. Waits only for the second tier, for some 50 ms at most. Does
        not raise.
        """
        found = self._read(self._store, key, allow_stale)
        if found is not None or self._shared is None:
            return found
        found = self._read(self._shared, key, allow_stale)
        if found is not None:
            self._store.put(Item(key, found, found.expires_at + self._stale))
        return found

    def put(self, key: CacheKey, response: CachedResponse) -> None:
        """Keep a response. Returns at once; a thread writes it.

        The time at which it expires is jittered here.
        """
        lifetime = response.expires_at - response.stored_at
        if lifetime <= 0:
            self.reject("expired")
            return
        if response.size > self._max_entry:
            self.reject("too_large")
            return
        expires_at = response.stored_at + lifetime * (1 - _JITTER * self._jitter())
        response.expires_at = expires_at
        item = Item(key, response, expires_at + self._stale)
        for store in self._tiers:
            store.put(item)

    def reject(self, reason: str) -> None:
        """Count a response that is not kept."""
        self.rejected[reason] += 1

    def forget(self, scope: str, target: str) -> None:
        """Delete what GET requests for `target` have brought, since it was changed. Does not wait.

        Where scopes are access tokens, those of the whole project are meant: the change shows in
        the responses to all of them.
        """
        for store in self._tiers:
            store.forget(scope.partition(":")[0], target)

    def purge(self, selection: Selection) -> int:
        """Delete the selected entries in both tiers.

        Returns the number of entries that can no longer be hit. Waits. Raises PurgeIncomplete when
        a tier does not respond; the other tier has been purged then.
        """
        deleted: set[bytes] = set()
        for store in self._tiers:
            deleted |= store.purge(selection)
        return len(deleted)

    def flush(self, seconds: float = 5.0) -> bool:
        """Wait until what was put before is kept, for at most `seconds` a tier.

        Returns whether it is kept.
        """
        return all(store.flush(seconds) for store in self._tiers)

    def size(self) -> StoreSize:
        """Return the size of the node's store. Takes microseconds."""
        return self._store.size()

    def counts(self) -> Counts:
        """Return the evictions, rejections and errors of this worker since its start.

        Errors are named by their tier, `store` or `shared`, and kind.
        """
        counts = Counts()
        counts.evictions.update(self._store.counts.evictions)
        counts.rejected.update(self.rejected)
        counts.errors.update(self.errors)
        for tier, store in zip(("store", "shared"), self._tiers, strict=False):
            counts.rejected.update(store.counts.rejected)
            for kind, count in store.counts.errors.items():
                counts.errors[f"{tier}_{kind}"] += count
        return counts

    def figures(self) -> CacheFigures:
        """Return the figures, for people. Takes milliseconds."""
        node = self._store.figures()
        rejected = dict(Counter(node.rejected) + self.rejected)
        return CacheFigures(
            node=dataclasses.replace(node, rejected=rejected),
            shared=None if self._shared is None else self._shared.figures(),
            errors=dict(self.counts().errors),
        )

    def _read(self, store: Store, key: CacheKey, stale: bool) -> CachedResponse | None:
        data = store.get(key, stale=stale)
        if data is None:
            return None
        known = self._decoded.get(key.digest)
        if known is not None and known[0] is data:
            return self._fresh(known[1], stale)
        try:
            found = CachedResponse.decode(data)
        except EntryUnreadable:
            self.errors["unreadable"] += 1
            store.delete(key)
            return None
        if found.scope != key.scope:
            self.errors["wrong_scope"] += 1
            store.delete(key)
            return None
        if len(data) <= _MAX_DECODED_BYTES:
            self._decoded[key.digest] = data, found
        return self._fresh(found, stale)

    def _fresh(self, found: CachedResponse, stale: bool) -> CachedResponse | None:
        end = found.expires_at + (self._stale if stale else 0.0)
        return found if end > self._clock() else None
