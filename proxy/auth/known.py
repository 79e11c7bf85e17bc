"""Known grants: a file of the node with what its workers read about tokens from the database.

Grants are written off the request's path, and read only while the database does not respond. They
are as current as the last poll for changes: for `grace` seconds after it any worker may use a row,
also after a restart.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple, Protocol

import gevent
from cachetools import TTLCache
from gevent.lock import RLock

from proxy.core.errors import StoreError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask
from proxy.store.changes import Change
from proxy.store.knowntokens import CONFIRM_SECONDS, Confirmed, Found, Learned, Outdated
from proxy.store.records import Grant

_log = logging.getLogger(__name__)

#: Seconds between two writes of changes, at least.
_MIN_INTERVAL: Final = 0.5
#: Seconds between two writes where nothing is urgent.
_INTERVAL: Final = 1.0
#: Seconds after which a token in use is written again although nothing changed, so that the oldest
#: rows are those of tokens that are not in use.
_REWRITE_AFTER: Final = 120.0
#: Tokens that may wait to be written.
_MAX_WAITING: Final = 10_000
#: Seconds by which the clock that wrote a time may have been ahead.
_MAX_SKEW: Final = 5.0
_NOTHING: Final = Outdated()


class Store(Protocol):
    """The file of known tokens. All methods but `close` raise StoreError."""

    def find(self, token_hash: str) -> Found | None: ...

    def confirmed(self) -> Confirmed | None: ...

    def update(
        self, learned: Sequence[Learned], outdated: Outdated, confirmed: Confirmed | None
    ) -> None: ...

    def close(self) -> None: ...


class Recalled(NamedTuple):
    """A grant, and the seconds for which it may still be used while the database is away."""

    grant: Grant
    seconds: float


class KnownGrants:
    """The known grants, as one worker reads and writes them. Only :meth:`find` raises."""

    def __init__(
        self,
        store: Store,
        *,
        grace: float,
        size: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Create the known grants.

        Args:
            store: The file.
            grace: Seconds for which a row may be used after the last poll; 0: nothing is kept.
            size: The number of written tokens that are remembered, so as not to write them again.
            clock: Unix seconds.
        """
        self._store = store
        self._grace = grace
        self._clock = clock
        self._learned: dict[str, Learned] = {}
        # What must still be removed from the file.
        self._outdated = _NOTHING
        # Token hash → the mark of the grant that was written. It is written again when it differs.
        self._written: TTLCache[str, object] = TTLCache(size, _REWRITE_AFTER)
        # The last poll for changes: this worker's or, before its first poll, the file's.
        self._confirmed: Confirmed | None = None
        self._confirmed_in_file = 0.0
        self._failures = FailureLog(
            _log.log, "known tokens", "the file cannot be used", "the file is written again"
        )
        # Unix seconds of the last announced change.
        self._forgot_at = -math.inf
        self._writing = RLock()
        self._task = PeriodicTask(
            self._run,
            lambda: _INTERVAL,
            failure="known tokens: a write failed",
            log=_log,
            first_pause=lambda: 0.0,
            min_pause=_MIN_INTERVAL,
        )

    def start(self) -> None:
        if self._grace:
            self._task.start()

    def close(self, deadline: float) -> None:
        """Write what is not written yet, for at most `deadline` seconds."""
        if not self._task.started:
            return
        self._task.kill()
        timeout = gevent.Timeout(deadline, False)  # type: ignore[arg-type]  # it ends silently
        with timeout, contextlib.suppress(StoreError):  # which has been logged
            self._flush(last=True)
            self._store.close()

    @property
    def usable(self) -> bool:
        """Whether there are grants that may be used now without the database."""
        return self._confirmed is not None and self._left(self._confirmed.at) > 0

    def seen_until(self) -> int | None:
        """Return the time up to which the file has every change, in microseconds.

        The time is that of the database's clock.

        Returns None for a file without tokens.
        """
        if not self._grace:
            return None
        try:
            found = self._store.confirmed()
        except StoreError as error:
            self._failures.failed(error)
            return None
        if found is None:
            return None
        self._confirmed_in_file = max(self._confirmed_in_file, found.at)
        self._confirmed = self._confirmed or found
        return found.seen_until

    def update(self, token_hash: str, grant: Grant | None, read_at: float) -> None:
        """Take what the database returned at `read_at` (Unix seconds). Does not wait.

        `grant` None: there is no such token.
        """
        if not self._grace or len(self._learned) >= _MAX_WAITING or read_at <= self._forgot_at:
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
        """Forget these tokens and projects: their change was announced. Does not wait."""
        gone, self._forgot_at = frozenset(ids), self._clock()
        # These were read before the change, and are not written yet. A read that is in progress
        # now is not taken.
        for each in [each for each in self._learned.values() if each.concerned_by(gone)]:
            del self._learned[each.token_hash]
        self._drop(Outdated(ids=gone))

    def seen(self, seen_until: int, changes: Sequence[Change] | None) -> None:
        """Take the result of a poll: these changes are new. Does not wait.

        Args:
            seen_until: Up to when the poll saw changes, in microseconds of the database's clock.
            changes: The changes; None: there were more than the database lists.
        """
        if not self._grace:
            return
        if changes is None:
            self._drop(Outdated(everything=self._clock()))
        elif changes:
            self._drop(Outdated(versions={each.id: each.updated_at for each in changes}))
        self._confirmed = Confirmed(seen_until, self._clock())

    def find(self, token_hash: str) -> Recalled | None:
        """Return what is known of a token, or None: nothing, or too old. Raises StoreError."""
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
        """Return the seconds for which what was true at `at` may still be used."""
        age = self._clock() - at
        return self._grace - max(0.0, age) if age > -_MAX_SKEW else 0.0

    def _drop(self, outdated: Outdated) -> None:
        if not self._grace:
            return
        self._outdated = self._outdated.then(outdated)
        # The tokens concerned are not known here. Those in use are read again.
        self._written.clear()
        self._task.wake()

    def _run(self) -> None:
        if self._confirmed is None:
            self.seen_until()
        with contextlib.suppress(StoreError):  # logged, and tried again
            self._flush()

    def _flush(self, *, last: bool = False) -> None:
        with self._writing:
            confirmed = self._to_confirm(last)
            # A row is written only with a time up to which it is true.
            waiting = {} if self._confirmed is None else self._learned
            if not waiting and confirmed is None and self._outdated == _NOTHING:
                return
            learned = list(waiting.values())
            waiting.clear()
            outdated, self._outdated = self._outdated, _NOTHING
            try:
                self._store.update(learned, outdated, confirmed)
            except BaseException as error:
                # A change must not be lost. Grants may be: they are read again.
                self._written.clear()
                self._outdated = outdated.then(self._outdated)
                if isinstance(error, StoreError):
                    self._failures.failed(error)
                raise
            if confirmed is not None:
                self._confirmed_in_file = confirmed.at
            self._failures.worked()

    def _to_confirm(self, last: bool) -> Confirmed | None:
        """Return the last poll if it is due to be written, or None.

        It is written seldom, when the polls have stopped, and at the end.
        """
        confirmed = self._confirmed
        if confirmed is None or confirmed.at <= self._confirmed_in_file:
            return None
        stopped = self._clock() - confirmed.at > 2 * _INTERVAL
        due = confirmed.at - self._confirmed_in_file >= CONFIRM_SECONDS
        return confirmed if last or stopped or due else None


def _mark(grant: Grant) -> object:
    """Return a value that differs when anything differs that a token check needs."""
    return (
        grant.project.updated_at,
        *((each.id, each.updated_at) for each in (grant.token, *grant.ancestors)),
    )
