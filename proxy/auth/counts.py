"""How often tokens were used: added up in memory, written in batches off the path.

Only tokens without ``max_requests`` are counted here; those with one are counted exactly, where
their limit is kept.
"""

import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import gevent
from gevent.event import Event

_log = logging.getLogger(__name__)

_INTERVAL: Final = 1.0
#: At most this many tokens a transaction, so that none holds its locks for long.
_BATCH: Final = 500


class CountsStore(Protocol):
    """The store, as seen from here."""

    def add_counts(self, entries: Sequence[tuple[str, int, datetime]]) -> None: ...


class RequestCounts:
    """Collects uses and writes them once a second; what a failing store refused is kept."""

    def __init__(self, store: CountsStore) -> None:
        self._store = store
        # Token id → (uses not written yet, time of the last). Merged, so bounded by tokens in use.
        self._pending: dict[str, tuple[int, datetime]] = {}
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self._closing = Event()
        self._failing = False

    def add(self, token_id: str) -> None:
        count, _ = self._pending.get(token_id, (0, None))
        self._pending[token_id] = (count + 1, datetime.now(UTC))

    def touch(self, token_id: str) -> None:
        """Note a use that is counted elsewhere."""
        count, _ = self._pending.get(token_id, (0, None))
        self._pending[token_id] = (count, datetime.now(UTC))

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Write what is left, for ``deadline`` seconds at the most; what then remains is logged."""
        self._closing.set()
        greenlet, self._greenlet = self._greenlet, None
        with contextlib.suppress(gevent.Timeout), gevent.Timeout(deadline):
            if greenlet is not None:
                # Not killed: what it is just writing may be committed without it, and would be
                # counted twice.
                greenlet.join()
            self.flush()
        if self._pending:
            _log.error("uses of %d access tokens could not be counted", len(self._pending))

    def flush(self) -> None:
        """One attempt to write all that is pending. Whatever the store raises, it is kept."""
        while self._pending:
            batch = [self._pending.popitem() for _ in range(min(_BATCH, len(self._pending)))]
            try:
                self._store.add_counts([(token, count, at) for token, (count, at) in batch])
            except BaseException as error:
                self._restore(batch)
                if not isinstance(error, Exception):
                    raise
                if not self._failing:
                    _log.warning("uses cannot be counted right now, they are kept", exc_info=error)
                self._failing = True
                return
            self._failing = False

    def _run(self) -> None:
        while not self._closing.wait(_INTERVAL):
            self.flush()

    def _restore(self, batch: list[tuple[str, tuple[int, datetime]]]) -> None:
        """Merge ``batch`` with what has come in since it was taken out."""
        for token, (count, at) in batch:
            newer, newer_at = self._pending.get(token, (0, at))
            self._pending[token] = (count + newer, max(at, newer_at))
