"""Permits of tokens with `max_requests`: taken from the store in blocks, spent here one by one.

While many remain, a worker leases a small block and admits requests from it without asking the
store. The last hundred are leased one by one. Leased permits count as used in the store, so a
worker that crashes can only make a token's life shorter, never longer. A block that is not needed
goes back after a moment, when its token changes, and at a graceful stop.

Note: a return is tried once. A store that gave no response may have done it, and a second return
would admit more requests than the limit.
"""

import logging
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import gevent

from proxy.core.errors import StoreError
from proxy.runtime.periodic import PeriodicTask
from proxy.runtime.singleflight import SingleFlight

_log = logging.getLogger(__name__)

#: Seconds without use after which a block goes back: another worker may need it.
IDLE_SECONDS: Final = 2.0
#: Seconds between two searches for idle blocks.
_INTERVAL: Final = 1.0
#: Seconds for which the store is not asked again whether a token has permits left, unless the token
#: changes: a flood of refused requests makes no flood of queries.
KNOWN_SECONDS: Final = 1.0


class PermitStore(Protocol):
    """Counts the requests of access tokens exactly. All methods raise StoreError."""

    def lease_permits(self, token_id: str, now: datetime) -> int: ...

    def permits_left(self, token_id: str) -> int: ...

    def return_permits(self, permits: Mapping[str, int]) -> None: ...


class LastUse(Protocol):
    """Records the time at which a token was last used, off the request's path."""

    def touch(self, token_id: str) -> None: ...


class _Lease:
    __slots__ = ("left", "used_at")

    def __init__(self) -> None:
        # Permits that are not spent, and the monotonic time at which the last one was spent.
        self.left = 0
        self.used_at = time.monotonic()


class PermitLeases:
    """The permits that this worker has leased. One per worker."""

    def __init__(self, store: PermitStore, uses: LastUse) -> None:
        self._store = store
        self._uses = uses
        self._leases: dict[str, _Lease] = {}
        # Token → whether the store has permits left, and the monotonic time until which that is
        # taken as known.
        self._known: dict[str, tuple[bool, float]] = {}
        # One query per token at a time; its result is how many permits the store has left.
        self._counting: SingleFlight[int] = SingleFlight(self._count_left, interrupted=StoreError)
        # One lease per token at a time; its result is how many permits the store granted.
        self._leasing: SingleFlight[int] = SingleFlight(self._lease, interrupted=StoreError)
        self._task = PeriodicTask(
            self._return_idle,
            lambda: _INTERVAL,
            failure="permits: a return failed",
            log=_log,
        )

    @property
    def outstanding(self) -> int:
        """How many permits are leased and not spent."""
        return sum(lease.left for lease in self._leases.values())

    def take_permit(self, token_id: str) -> bool:
        """Return whether one more request may pass. Raises StoreError when that is not known."""
        while True:
            lease = self._leases.get(token_id)
            if lease is not None and lease.left:
                lease.left -= 1
                lease.used_at = time.monotonic()
                self._uses.touch(token_id)
                return True
            flight = self._leasing.get(token_id)
            if flight is None:
                if self._has_left(token_id) is False:
                    return False
                return self._leasing.lead(token_id) > 0
            if not flight.get():
                return False

    def has_permit(self, token_id: str) -> bool:
        """Return whether a permit may be there for a request that may need none.

        Nothing is taken: a permit held for such requests would be missed by other workers. Of a
        token without a lease here, the result may be a second old. Raises StoreError.
        """
        lease = self._leases.get(token_id)
        if lease is not None and lease.left:
            return True
        known = self._has_left(token_id)
        return self._counting.do(token_id) > 0 if known is None else known

    def put_back(self, token_id: str) -> None:
        """Take back a permit that was not needed. It waits here for another request."""
        lease = self._leases.setdefault(token_id, _Lease())
        lease.left += 1

    def return_permits(self, token_ids: Collection[str] | None) -> None:
        """Return what is left of the leases of these tokens to the store; None: of all tokens."""
        if token_ids is None:
            self._known.clear()
        chosen = list(self._leases) if token_ids is None else token_ids
        permits = {}
        for token_id in chosen:
            self._known.pop(token_id, None)
            lease = self._leases.pop(token_id, None)
            if lease is not None and lease.left:
                permits[token_id] = lease.left
        if not permits:
            return
        try:
            self._store.return_permits(permits)
        except StoreError:
            _log.warning("permits: %d unused ones could not be returned", sum(permits.values()))
        except Exception:  # noqa: BLE001
            # A defect must not end the callers, which call this again and again.
            _log.exception("permits: %d unused ones could not be returned", sum(permits.values()))

    def start(self) -> None:
        self._task.start()

    def close(self, deadline: float) -> None:
        """Return every permit, for at most `deadline` seconds."""
        self._task.kill()
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            self.return_permits(None)

    def _lease(self, token_id: str) -> int:
        """Lease a block; its first permit is the caller's. Returns how many permits it has."""
        granted = self._store.lease_permits(token_id, datetime.now(UTC))
        if granted > 1:
            # Permits that were put back meanwhile stay in the lease.
            lease = self._leases.setdefault(token_id, _Lease())
            lease.left += granted - 1
        if not granted:
            self._remember(token_id, False)
        return granted

    def _count_left(self, token_id: str) -> int:
        left = self._store.permits_left(token_id)
        self._remember(token_id, left > 0)
        return left

    def _has_left(self, token_id: str) -> bool | None:
        """Return whether the store has permits left, or None where it must be asked."""
        has_left, until = self._known.get(token_id, (False, 0.0))
        return has_left if until > time.monotonic() else None

    def _remember(self, token_id: str, has_left: bool) -> None:
        self._known[token_id] = (has_left, time.monotonic() + KNOWN_SECONDS)

    def _return_idle(self) -> None:
        now = time.monotonic()
        self._known = {t: known for t, known in self._known.items() if known[1] > now}
        before = now - IDLE_SECONDS
        self.return_permits([t for t, lease in self._leases.items() if lease.used_at < before])
