"""What a worker learned of tokens, for all workers of its node while the database is away.

What was learned is written behind, so that it costs no request anything, and is asked for only when
the database does not answer. It is as true as the last look for changes: for ``grace`` seconds
after it a row may be used, by whichever worker, also over a restart.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol

import gevent
from cachetools import TTLCache
from gevent.event import Event
from gevent.lock import RLock

from proxy.core.errors import StoreError
from proxy.store.changes import Change
from proxy.store.knowntokens import CONFIRM_SECONDS, Confirmed, Found, Learned, Outdated
from proxy.store.records import Grant

_log = logging.getLogger(__name__)

#: Seconds between two writes: of changes at the least, and where nothing is urgent.
_GAP: Final = 0.5
_INTERVAL: Final = 1.0
#: Seconds after which a token that is in use is written again although nothing changed, so that
#: the rows that are not in use are the oldest.
_AGAIN: Final = 120.0
#: Learned tokens that wait to be written.
_MOST_WAITING: Final = 10_000
#: How far ahead the clock of whoever wrote a time may have been, in seconds.
_SKEW: Final = 5.0
_NOTHING: Final = Outdated()


class Store(Protocol):
    """The file, as seen from here."""

    def find(self, token_hash: str) -> Found | None: ...

    def confirmed(self) -> Confirmed | None: ...

    def update(
        self, learned: Sequence[Learned], outdated: Outdated, confirmed: Confirmed | None
    ) -> None: ...

    def close(self) -> None: ...


class Recalled(NamedTuple):
    """A grant, and for how many seconds more it may be used while the database is away."""

    grant: Grant
    seconds: float


class KnownGrants:
    """One per worker. Only :meth:`find` raises, StoreError: nobody can tell."""

    def __init__(
        self,
        store: Store,
        *,
        grace: float,
        size: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``grace`` in seconds; 0: nothing is kept. ``size`` bounds what is remembered of what was
        written."""
        self._store = store
        self._grace = grace
        self._clock = clock
        self._learned: dict[str, Learned] = {}
        # What is not taken out of the file yet.
        self._outdated = _NOTHING
        # Token hash → what of its grant was written: it is not written again unless that changed.
        self._written: TTLCache[str, object] = TTLCache(size, _AGAIN)
        # The last look for changes: this worker's, or, before its first one, that in the file.
        self._confirmed: Confirmed | None = None
        self._confirmed_in_file = 0.0
        self._failing = False
        # Unix seconds at which somebody last said that something had changed.
        self._forgot_at = -math.inf
        self._wake = Event()
        self._writing = RLock()
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def start(self) -> None:
        if self._grace:
            self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Write what is not written yet, for ``deadline`` seconds at the most."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is None:
            return
        greenlet.kill()
        timeout = gevent.Timeout(deadline, False)  # type: ignore[arg-type]  # it ends silently
        with timeout, contextlib.suppress(StoreError):  # which has been logged
            self._flush(last=True)
            self._store.close()

    @property
    def usable(self) -> bool:
        """Whether there are tokens that may be used now without the database."""
        return self._confirmed is not None and self._left(self._confirmed.at) > 0

    def seen_until(self) -> int | None:
        """Up to when changes are taken out of the file, by the database's clock in microseconds;
        None: it has no tokens."""
        if not self._grace:
            return None
        try:
            found = self._store.confirmed()
        except StoreError as error:
            self._failed(error)
            return None
        if found is None:
            return None
        self._confirmed_in_file = max(self._confirmed_in_file, found.at)
        self._confirmed = self._confirmed or found
        return found.seen_until

    def learn(self, token_hash: str, grant: Grant | None, read_at: float) -> None:
        """The database said this when it was asked at ``read_at`` (unix seconds); None: there is no
        such token. Does not wait."""
        if not self._grace or len(self._learned) >= _MOST_WAITING or read_at <= self._forgot_at:
            return
        mark = None if grant is None else _mark(grant)
        if self._written.get(token_hash) == mark:
            return
        self._learned[token_hash] = Learned(token_hash, grant, read_at)
        if mark is None:
            self._written.pop(token_hash, None)
        else:
            self._written[token_hash] = mark

    def forget(self, ids: Collection[str]) -> None:
        """Somebody said that these tokens and projects have changed. Does not wait."""
        gone, self._forgot_at = frozenset(ids), self._clock()
        # Read before the change, and not written yet. What is being read now is not learned.
        for each in [each for each in self._learned.values() if each.concerned_by(gone)]:
            del self._learned[each.token_hash]
        self._drop(Outdated(ids=gone))

    def seen(self, seen_until: int, changes: Sequence[Change] | None) -> None:
        """The database was asked what has changed up to then (its microseconds), and named these
        for the first time; None: there was more than it could name. Does not wait."""
        if not self._grace:
            return
        if changes is None:
            self._drop(Outdated(everything=self._clock()))
        elif changes:
            self._drop(Outdated(versions={each.id: each.updated_at for each in changes}))
        self._confirmed = Confirmed(seen_until, self._clock())

    def find(self, token_hash: str) -> Recalled | None:
        """What was known of a token; None: nothing, or it is too long ago."""
        if not self._grace:
            return None
        if self._learned or self._outdated != _NOTHING:
            self._flush()
        if self._confirmed is None:
            self.seen_until()
        found = self._store.find(token_hash)
        if found is None:
            return None
        at = found.read_at if self._confirmed is None else max(found.read_at, self._confirmed.at)
        left = self._left(at)
        return Recalled(found.grant, left) if left > 0 else None

    def _left(self, at: float) -> float:
        """Seconds for which what was true ``at`` may still be used."""
        age = self._clock() - at
        return self._grace - max(0.0, age) if age > -_SKEW else 0.0

    def _drop(self, outdated: Outdated) -> None:
        if not self._grace:
            return
        self._outdated = self._outdated.then(outdated)
        # Which tokens that concerns is not known here: they are learned again when in use.
        self._written.clear()
        self._wake.set()

    def _run(self) -> None:
        self.seen_until()
        while True:
            if self._wake.wait(_INTERVAL):
                gevent.sleep(_GAP)
            self._wake.clear()
            try:
                self._flush()
            except StoreError:
                pass  # it has been logged, and is tried again
            except Exception:  # noqa: BLE001
                # A defect of ours must not end it.
                _log.exception("known tokens could not be written")

    def _flush(self, *, last: bool = False) -> None:
        with self._writing:
            confirmed = self._to_confirm(last)
            # No row without a time up to which it is true.
            waiting = {} if self._confirmed is None else self._learned
            if not waiting and confirmed is None and self._outdated == _NOTHING:
                return
            learned = list(waiting.values())
            waiting.clear()
            outdated, self._outdated = self._outdated, _NOTHING
            try:
                self._store.update(learned, outdated, confirmed)
            except BaseException as error:
                # What has changed must not come back; what was learned is learned again.
                self._written.clear()
                self._outdated = outdated.then(self._outdated)
                if isinstance(error, StoreError):
                    self._failed(error)
                raise
            if confirmed is not None:
                self._confirmed_in_file = confirmed.at
            if self._failing:
                _log.info("known tokens: written again")
            self._failing = False

    def _to_confirm(self, last: bool) -> Confirmed | None:
        """What is to be written of the last look: seldom, and when looks have stopped to come."""
        confirmed = self._confirmed
        if confirmed is None or confirmed.at <= self._confirmed_in_file:
            return None
        stopped = self._clock() - confirmed.at > 2 * _INTERVAL
        due = confirmed.at - self._confirmed_in_file >= CONFIRM_SECONDS
        return confirmed if last or stopped or due else None

    def _failed(self, error: StoreError) -> None:
        if not self._failing:
            _log.warning("known tokens: the file cannot be used: %s", error.__cause__ or error)
        self._failing = True


def _mark(grant: Grant) -> object:
    """Differs when anything differs that a token check needs."""
    return (
        grant.project.updated_at,
        *((each.id, each.updated_at) for each in (grant.token, *grant.ancestors)),
    )
