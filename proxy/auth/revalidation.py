"""Requests in flight are checked again when their token changes or expires.

This happens off the request's path, and once for all requests of a token.

Note: only the store decides. What was known when a request came in may be wrong by now: an expiry
may have been postponed a moment ago. While the store is away nothing is cut, and the check is
repeated.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

import gevent
from gevent.event import Event

from proxy.auth.principal import Principal, TokenRefused
from proxy.core.errors import BackendError, ClientError
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

#: Seconds between two sweeps of all requests, which find expired tokens.
_SWEEP_INTERVAL: Final = 1.0
#: Seconds between two sweeps at least.
_MIN_INTERVAL: Final = 0.02
#: Reads of the store at once.
_PARALLEL_READS: Final = 4
#: Reads of the store per second after a change that may concern all tokens.
_MAX_READS_PER_SECOND: Final = 500
#: Seconds for which a change is remembered: longer than reading a token may take.
_REMEMBER_SECONDS: Final = 30.0
#: Changes that are remembered. More of them count as a change of all tokens.
_MAX_CHANGES: Final = 10_000

#: A request, in any representation, and its principal.
OwnedRequest = tuple[Any, Principal]


class InFlight(Protocol):
    """The requests in flight. No method waits."""

    def owned(self) -> list[OwnedRequest]: ...

    def is_current(self, request: OwnedRequest) -> bool: ...

    def replace(self, requests: Iterable[OwnedRequest], owner: Principal) -> None: ...

    def revoke(self, requests: Iterable[OwnedRequest], refusal: ClientError) -> None: ...


class Revalidator:
    """Checks the requests in flight of changed and expired tokens. One per worker."""

    def __init__(
        self,
        in_flight: InFlight,
        revalidate: Callable[[str], Principal],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create the revalidator.

        Args:
            in_flight: The requests in flight.
            revalidate: Returns the principal of a token hash as the store knows it now. Raises
                ClientError when the token may not be used, BackendError when that is not known.
            clock: Unix seconds.
        """
        self._in_flight = in_flight
        self._revalidate = revalidate
        self._clock = clock
        # Monotonic seconds at which a change became known: of an id, and of all tokens.
        self._changed: dict[str, float] = {}
        self._all_changed = -1.0
        # Token hash → requests to be checked: soon, and at the pace of a change of all tokens.
        self._soon: dict[str, list[OwnedRequest]] = {}
        self._later: dict[str, list[OwnedRequest]] = {}
        # Hashes of expired tokens whose policy lets requests in flight end by themselves.
        self._spared: set[str] = set()
        self._sweeps = PeriodicTask(
            self._sweep,
            lambda: _SWEEP_INTERVAL,
            failure="revalidation: the sweep of the requests in flight failed",
            log=_log,
            min_pause=_MIN_INTERVAL,
        )
        # Greenlets that share a queue. They are no periodic tasks: each takes the next access token
        # as soon as it has checked one, and all wait for the same event.
        self._work = Event()
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def changed(self, ids: Collection[str] | None) -> None:
        """Check the requests of these tokens and projects; None: of all. Does not wait."""
        now = time.monotonic()
        if ids is None or len(self._changed) + len(ids) > _MAX_CHANGES:
            self._changed.clear()
            self._all_changed = now
        else:
            self._changed.update(dict.fromkeys(ids, now))
        self._sweeps.wake()

    def start(self) -> None:
        self._sweeps.start()
        self._greenlets = self._workers()

    def close(self) -> None:
        self._sweeps.kill()
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets)

    def _workers(self) -> list["gevent.Greenlet[..., None]"]:
        return [gevent.spawn(self._check_all) for _ in range(_PARALLEL_READS)]

    def _sweep(self) -> None:
        """Find the requests to be checked. A request remains due until it could be checked."""
        now = self._clock()
        soon: dict[str, list[OwnedRequest]] = {}
        later: dict[str, list[OwnedRequest]] = {}
        live = set()
        for request in self._in_flight.owned():
            owner = request[1]
            name = owner.token_hash
            live.add(name)
            expired = owner.expires_at <= now and name not in self._spared
            if expired or (self._changed and owner.older_than(self._changed)):
                soon.setdefault(name, []).append(request)
            elif owner.read_at <= self._all_changed:
                later.setdefault(name, []).append(request)
        self._spared &= live
        self._soon, self._later = soon, later
        if soon or later:
            self._work.set()
        if not soon:
            # A token that was being read at that moment may appear only now, with the old data.
            self._changed = _since(self._changed, time.monotonic() - _REMEMBER_SECONDS)

    def _check_all(self) -> None:
        while True:
            self._work.wait()
            chosen = self._soon or self._later
            if not chosen:
                self._work.clear()
                continue
            pause = 0.0 if chosen is self._soon else _PARALLEL_READS / _MAX_READS_PER_SECOND
            name = next(iter(chosen))
            requests = chosen.pop(name)
            if not any(map(self._in_flight.is_current, requests)):
                continue
            try:
                self._check(name, requests)
            except BackendError:
                pause = _SWEEP_INTERVAL
            except Exception:  # noqa: BLE001
                # A defect must not end the greenlet: no request would be cut any more.
                _log.exception("revalidation: the check of an access token failed")
                pause = _SWEEP_INTERVAL
            gevent.sleep(pause)

    def _check(self, name: str, requests: list[OwnedRequest]) -> None:
        try:
            owner = self._revalidate(name)
        except TokenRefused as refusal:
            if refusal.principal.policy.cut_on_revoke:
                self._in_flight.revoke(requests, refusal)
                return
            self._spared.add(name)
            owner = refusal.principal
        except ClientError as refusal:
            self._in_flight.revoke(requests, refusal)
            return
        else:
            self._spared.discard(name)
        self._in_flight.replace(requests, owner)


def _since(changed: Mapping[str, float], moment: float) -> dict[str, float]:
    return {name: at for name, at in changed.items() if at > moment}
