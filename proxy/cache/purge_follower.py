"""Purges that were made on any node, applied to the store of this one.

Each node has a store of its own, and its file outlives a restart of the server. So a worker applies
all purges that may concern what it finds there before it serves from it, and each later one when
the change of the revision reaches it. All workers of a node apply a purge, since any of them may be
the only one that is left; the second finds nothing to delete.

Note: while the database is away, purges of other nodes cannot be heard of, as revocations cannot.
"""

import logging
import math
from collections.abc import Collection, Sequence
from typing import Final, Protocol

from proxy.cache.backends.base import Selection
from proxy.core.errors import BackendError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.store.cache_purges import PURGES_REVISION, LoggedPurge, Purge

_log = logging.getLogger(__name__)

#: Seconds until purges that could not be read or applied are tried again.
_RETRY_SECONDS: Final = 1.0


class PurgeLog(Protocol):
    """The purges of all nodes. Both methods raise StoreError."""

    def now(self) -> int: ...

    def since(self, moment: int) -> Sequence[LoggedPurge]: ...


class Purged(Protocol):
    """The cache of this worker."""

    def purge(self, selection: Selection) -> int: ...


def selection_of(purge: Purge) -> Selection:
    """Return the entries that a purge of the log deletes. A project is a scope of the cache."""
    return Selection(
        scope=purge.project_id,
        method=purge.method,
        target=purge.target,
        prefix=purge.prefix,
        name=purge.key,
    )


class PurgeFollower:
    """One per worker. Idle until the worker uses its cache."""

    def __init__(self, log: PurgeLog, lifetime: float) -> None:
        """`lifetime`: seconds after which no response can be hit any more."""
        self._purges = log
        self._lifetime = lifetime
        self._cache: Purged | None = None
        # The time of the last purge that was applied, in microseconds.
        self._seen: int | None = None
        self._failures = FailureLog(
            _log.log, "purges", "purges of other nodes are not applied", "purges are applied again"
        )
        self._task = PeriodicTask(
            self._run,
            lambda: _RETRY_SECONDS if self._failures.failing else math.inf,
            failure="purges: applying them failed",
            log=_log,
        )

    def follow(self, cache: Purged) -> None:
        """Apply what was purged while `cache` was not followed, then each purge from now on.

        Waits for the database. Never raises: what cannot be read now is read later.
        """
        self._cache = cache
        self._run()
        self._task.start()

    def close(self) -> None:
        self._task.kill()

    def changed(self, ids: Collection[str] | None) -> None:
        """Apply new purges soon, if there may be any. `ids`: of what changed; None: anything."""
        if self._cache is not None and (ids is None or PURGES_REVISION in ids):
            self._task.wake()

    def _run(self) -> None:
        cache = self._cache
        if cache is None:
            return
        try:
            self._apply(cache)
        except BackendError as error:
            self._failures.failed(error)
        else:
            self._failures.worked()

    def _apply(self, cache: Purged) -> None:
        if self._seen is None:
            self._seen = self._purges.now() - math.ceil(self._lifetime * 1e6)
        while found := self._purges.since(self._seen):
            for each in found:
                cache.purge(selection_of(each.purge))
                self._seen = each.moment
