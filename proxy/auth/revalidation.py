"""Requests under way are judged again: when something of their tokens changed, or they expire.

Off the path, and once for all requests of a token. The thing to get wrong: what was known when a
request came in counts for nothing here. The store says whether a token may go on; an expiry may
have been put off a moment ago. While the store is away nothing is cut, and it is asked again.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

import gevent
from gevent.event import Event

from proxy.auth.principal import Principal, TokenRefused
from proxy.core.errors import BackendError, ClientError

_log = logging.getLogger(__name__)

#: Seconds between two looks at everybody, for those who have expired; and between any two.
_SWEEP: Final = 1.0
_GAP: Final = 0.02
#: Questions to the store under way at once.
_PARALLEL: Final = 4
#: Questions a second where everything may have changed.
_PACE: Final = 500
#: Seconds for which a change is remembered: longer than looking up a token may take.
_REACH: Final = 30.0
#: Changes that are remembered; with more of them, everything may have changed.
_MOST: Final = 10_000

#: A request, in whichever way it is known, and whose it is.
Claim = tuple[Any, Principal]


class Live(Protocol):
    """The requests under way, as seen from here. No method waits."""

    def claims(self) -> list[Claim]: ...

    def holds(self, claim: Claim) -> bool: ...

    def replace(self, claims: Iterable[Claim], owner: Principal) -> None: ...

    def revoke(self, claims: Iterable[Claim], refusal: ClientError) -> None: ...


class Revalidator:
    """One per worker. ``revalidate(token_hash)``: the principal as the store knows it now, or
    ClientError: it may not be used; BackendError: nobody can tell."""

    def __init__(
        self,
        live: Live,
        revalidate: Callable[[str], Principal],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._live = live
        self._look_again = revalidate
        self._clock = clock
        # Monotonic seconds at which it was learned that something changed: an id, and everything.
        self._changed: dict[str, float] = {}
        self._all_changed = -1.0
        # Token hash → requests, of those to be judged: soon, and when there is time.
        self._soon: dict[str, list[Claim]] = {}
        self._later: dict[str, list[Claim]] = {}
        # Token hashes that have expired and whose requests may end by themselves.
        self._spared: set[str] = set()
        self._look, self._work = Event(), Event()
        self._greenlets: list[gevent.Greenlet[..., None]] = []

    def changed(self, ids: Collection[str] | None) -> None:
        """These tokens and projects have changed; None: all may have. Does not wait."""
        now = time.monotonic()
        if ids is None or len(self._changed) + len(ids) > _MOST:
            self._changed.clear()
            self._all_changed = now
        else:
            self._changed.update(dict.fromkeys(ids, now))
        self._look.set()

    def start(self) -> None:
        self._greenlets = [gevent.spawn(self._run), *self._workers()]

    def close(self) -> None:
        greenlets, self._greenlets = self._greenlets, []
        gevent.killall(greenlets)

    def _workers(self) -> list["gevent.Greenlet[..., None]"]:
        return [gevent.spawn(self._judge_all) for _ in range(_PARALLEL)]

    def _run(self) -> None:
        while True:
            self._look.wait(_SWEEP)
            self._look.clear()
            try:
                self._sweep()
            except Exception:  # noqa: BLE001
                # A defect of ours must not end it: nobody would be judged again any more.
                _log.exception("requests under way could not be looked through")
                gevent.sleep(_SWEEP)
            gevent.sleep(_GAP)

    def _sweep(self) -> None:
        """Find who is to be judged. Whoever is in doubt stays so until it was possible."""
        now = self._clock()
        soon: dict[str, list[Claim]] = {}
        later: dict[str, list[Claim]] = {}
        live = set()
        for claim in self._live.claims():
            owner = claim[1]
            name = owner.token_hash
            live.add(name)
            expired = owner.expires_at <= now and name not in self._spared
            if expired or (self._changed and owner.older_than(self._changed)):
                soon.setdefault(name, []).append(claim)
            elif owner.read_at <= self._all_changed:
                later.setdefault(name, []).append(claim)
        self._spared &= live
        self._soon, self._later = soon, later
        if soon or later:
            self._work.set()
        if not soon:
            # One who was looked up at that moment may be known only now, with what was true before.
            self._changed = _since(self._changed, time.monotonic() - _REACH)

    def _judge_all(self) -> None:
        while True:
            self._work.wait()
            chosen = self._soon or self._later
            if not chosen:
                self._work.clear()
                continue
            pause = 0.0 if chosen is self._soon else _PARALLEL / _PACE
            name = next(iter(chosen))
            claims = chosen.pop(name)
            if not any(map(self._live.holds, claims)):
                continue
            try:
                self._judge(name, claims)
            except BackendError:
                pause = _SWEEP
            except Exception:  # noqa: BLE001
                # A defect of ours must not end it: nothing would be cut any more.
                _log.exception("an access token could not be judged again")
                pause = _SWEEP
            gevent.sleep(pause)

    def _judge(self, name: str, claims: list[Claim]) -> None:
        try:
            owner = self._look_again(name)
        except TokenRefused as refusal:
            if refusal.principal.policy.cut_on_revoke:
                self._live.revoke(claims, refusal)
                return
            self._spared.add(name)
            owner = refusal.principal
        except ClientError as refusal:
            self._live.revoke(claims, refusal)
            return
        else:
            self._spared.discard(name)
        self._live.replace(claims, owner)


def _since(changed: Mapping[str, float], moment: float) -> dict[str, float]:
    return {name: at for name, at in changed.items() if at > moment}
