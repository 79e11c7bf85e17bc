"""Permits of tokens with ``max_requests``: taken from the store in blocks, spent here one by one.

While many remain, a worker leases a small block and admits from it without asking; the last hundred
are asked for one by one. What is leased counts as used in the store, so that a worker that crashes
can only make a token's life shorter, never longer. A block that is not needed goes back after a
moment, when its token changes, and at a graceful stop.

The thing to get wrong: giving back is tried once. If the store did not answer it may have been
done, and doing it twice would admit more than the limit.
"""

import logging
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol

import gevent
from gevent.event import AsyncResult

from proxy.core.errors import StoreError

_log = logging.getLogger(__name__)

#: A block that was not used for so many seconds goes back: another worker may need it.
IDLE_SECONDS: Final = 2.0
_INTERVAL: Final = 1.0
#: How long "it is used up" is believed, unless its token changes: a flood of refused requests is no
#: flood of queries.
USED_UP_SECONDS: Final = 1.0


class PermitStore(Protocol):
    """The store, as seen from here."""

    def lease_permits(self, token_id: str, now: datetime) -> int: ...

    def return_permits(self, permits: Mapping[str, int]) -> None: ...


class LastUse(Protocol):
    """Where the use of a permit is noted, off the path."""

    def touch(self, token_id: str) -> None: ...


class _Lease:
    __slots__ = ("left", "used_at")

    def __init__(self) -> None:
        # Permits not spent yet, and the monotonic time of the last one spent.
        self.left = 0
        self.used_at = time.monotonic()


class PermitLeases:
    """One per worker."""

    def __init__(self, store: PermitStore, uses: LastUse) -> None:
        self._store = store
        self._uses = uses
        self._leases: dict[str, _Lease] = {}
        # Tokens with nothing left → the monotonic time before which nobody asks about them.
        self._used_up: dict[str, float] = {}
        # Questions to the store under way, one per token.
        self._asking: dict[str, AsyncResult[int]] = {}
        self._greenlet: gevent.Greenlet[..., None] | None = None

    @property
    def outstanding(self) -> int:
        """Permits leased and not spent."""
        return sum(lease.left for lease in self._leases.values())

    def take_permit(self, token_id: str) -> bool:
        """Whether one more request may pass. StoreError: not known, and not to be had."""
        while True:
            lease = self._leases.get(token_id)
            if lease is not None and lease.left:
                lease.left -= 1
                lease.used_at = time.monotonic()
                self._uses.touch(token_id)
                return True
            flight = self._asking.get(token_id)
            if flight is None:
                if self._used_up.get(token_id, 0.0) > time.monotonic():
                    return False
                return self._ask(token_id)
            if not flight.get():
                return False

    def put_back(self, token_id: str) -> None:
        """What was taken last is not needed. It waits here for another request."""
        lease = self._leases.setdefault(token_id, _Lease())
        lease.left += 1

    def give_back(self, token_ids: Collection[str] | None) -> None:
        """Return what is left of the leases of these tokens; None: of all."""
        if token_ids is None:
            self._used_up.clear()
        chosen = list(self._leases) if token_ids is None else token_ids
        permits = {}
        for token_id in chosen:
            self._used_up.pop(token_id, None)
            lease = self._leases.pop(token_id, None)
            if lease is not None and lease.left:
                permits[token_id] = lease.left
        if not permits:
            return
        try:
            self._store.return_permits(permits)
        except StoreError:
            _log.warning("%d unused permits could not be returned", sum(permits.values()))
        except Exception:  # noqa: BLE001
            # A defect of ours must not end those who call this again and again.
            _log.exception("%d unused permits could not be returned", sum(permits.values()))

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Return everything, for ``deadline`` seconds at the most."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            self.give_back(None)

    def _ask(self, token_id: str) -> bool:
        flight = self._asking[token_id] = AsyncResult()
        try:
            granted = self._store.lease_permits(token_id, datetime.now(UTC))
        except BaseException as error:
            del self._asking[token_id]
            flight.set_exception(error if isinstance(error, Exception) else StoreError())
            raise
        del self._asking[token_id]
        if granted > 1:
            # What another question brought meanwhile is kept, too.
            lease = self._leases.setdefault(token_id, _Lease())
            lease.left += granted - 1
        if not granted:
            self._used_up[token_id] = time.monotonic() + USED_UP_SECONDS
        flight.set(granted)
        return granted > 0

    def _run(self) -> None:
        while True:
            gevent.sleep(_INTERVAL)
            now = time.monotonic()
            self._used_up = {t: until for t, until in self._used_up.items() if until > now}
            before = now - IDLE_SECONDS
            self.give_back([t for t, lease in self._leases.items() if lease.used_at < before])
