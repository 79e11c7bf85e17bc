"""Every worker asks once a second what was changed, and forgets what it knew about it.

So a revocation, a deactivation, a new limit or a new upstream key made on any node is felt within
about two seconds, whatever the cache's own time. What is announced (this worker made the change, or
Redis told of it) is felt at once; the question is asked all the same, since an announcement may get
lost. While the database is away nothing else can be learned; what was missed is asked for when it
is back.
"""

import logging
import random
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

import gevent
from gevent.event import Event

from proxy.auth.known import KnownGrants
from proxy.core.errors import StoreError
from proxy.store.changes import Change, ChangeList

_log = logging.getLogger(__name__)

#: How far each question reaches back, in microseconds: longer than a transaction can last.
_OVERLAP: Final = 15_000_000
_LONGEST_PAUSE: Final = 5.0
#: Seconds between two questions at the least, however much is announced.
_GAP: Final = 0.05
#: Announced changes that are remembered until they are found.
_MOST_FELT: Final = 10_000


class ChangeSource(Protocol):
    """The store, as seen from here."""

    def now(self) -> int: ...

    def since(self, moment: int) -> ChangeList: ...


class ChangePoller:
    """Calls ``forget(ids)`` with the tokens and projects that changed; with None: with all."""

    def __init__(
        self,
        source: ChangeSource,
        forget: Callable[[Collection[str] | None], None],
        *,
        interval: float,
        known: KnownGrants | None = None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """``interval``: seconds between two questions, jittered by a tenth. ``known``: what is kept
        over restarts, which is asked up to when it is true, and given every change. ``failed`` is
        called when the database stops to answer; it must not wait."""
        self._source = source
        self._forget = forget
        self._interval = interval
        self._kept = known
        self._failed = failed
        # The database's time up to which everything has been seen; None before the first answer.
        self._seen_until: int | None = None
        # Changes within the overlap that have been acted upon: id → its time.
        self._known: dict[str, int] = {}
        # What was announced and acted upon and has not been found yet: id → monotonic time.
        self._applied: dict[str, float] = {}
        self._hurry = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._failing = False
        #: Seconds from the newest change to its being felt here, of the last question that found
        #: one; None before the first.
        self.lag: float | None = None
        #: Monotonic time of the last question that was answered.
        self.looked_at: float | None = None
        #: Whether announcements of other workers are heard; None: there is nothing to hear them by.
        self.listening: bool | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()

    def announced(self, ids: Collection[str]) -> None:
        """These changed just now: forget them before they are found."""
        if self._kept is not None:
            self._kept.forget(ids)
        self._forget(ids)
        if len(self._applied) < _MOST_FELT:
            self._applied.update(dict.fromkeys(ids, time.monotonic()))

    def heard(self, ids: Collection[str]) -> None:
        """Another worker announced it. It may be nonsense: what is true the next question tells."""
        self.announced(ids)
        self._hurry.set()

    def listens(self, listening: bool) -> None:
        """Announcements of other workers are heard from now on, or are not any longer."""
        self.listening = listening
        # What was announced in between is to be found.
        self._hurry.set()

    def look(self) -> None:
        """Ask once. StoreError: nothing was learned, the next question covers it."""
        resumed = False
        if self._seen_until is None:
            moment = None if self._kept is None else self._kept.seen_until()
            resumed = moment is not None
            if moment is None:
                # Nothing is known yet that could be older than this.
                self._seen_until = self._source.now()
                self._keep(self._seen_until, [])
                return
            self._seen_until = moment
        reach = self._seen_until - _OVERLAP
        answer = self._source.since(reach)
        fresh: list[Change] | None = None
        if answer.truncated:
            self._forget(None)
            self._known.clear()
        else:
            fresh = [c for c in answer.changes if self._known.get(c.id) != c.updated_at]
            if fresh:
                self._forget({change.id for change in fresh})
                if not resumed:  # what changed before the start was not felt late
                    self._measure(fresh, answer.now)
            self._known = {change.id: change.updated_at for change in answer.changes}
        self._seen_until = answer.now
        self._keep(answer.now, fresh)

    def _keep(self, moment: int, changes: list[Change] | None) -> None:
        if self._kept is not None:
            self._kept.seen(moment, changes)

    def _measure(self, fresh: list[Change], now: int) -> None:
        """How late the newest of these was felt, when the database's time is ``now``."""
        felt = {change.id: self._applied.pop(change.id, None) for change in fresh}
        newest = max(fresh, key=lambda change: change.updated_at)
        announced = felt[newest.id]
        since = 0.0 if announced is None else time.monotonic() - announced
        self.lag = max(0.0, (now - newest.updated_at) / 1e6 - since)

    def _run(self) -> None:
        pause = self._interval
        while True:
            try:
                self.look()
            except StoreError as error:
                if not self._failing:
                    _log.warning("revocations of other nodes cannot be seen: %s", error.__cause__)
                    self._failed()
                self._failing = True
                pause = min(pause * 2, max(_LONGEST_PAUSE, self._interval))
            except Exception:  # noqa: BLE001
                # A defect of ours must not end it: revocations would silently stop arriving.
                _log.exception("looking for changes failed")
                pause = self._interval
            else:
                if self._failing:
                    _log.info("revocations of other nodes are seen again")
                self._failing = False
                self.looked_at = time.monotonic()
                pause = self._interval
            gevent.sleep(_GAP)
            self._hurry.wait(pause * random.uniform(0.9, 1.1) - _GAP)  # noqa: S311  (no secret)
            self._hurry.clear()
