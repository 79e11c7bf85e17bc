"""The use of access tokens: added up in memory, written in batches off the request's path.

Requests of tokens without `max_requests` are counted here. Those of a token with that limit are
counted exactly, where the limit is kept (:mod:`proxy.quota.permits`). LLM tokens and hits of the
response cache are always counted here; a hit is no request of the token's.

Note: more uses come in while a batch is being written. A flush that went on until nothing is left
would not end on a busy worker, and would make a transaction of every request.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import time
from typing import Final, Protocol

import gevent

from proxy.core.errors import StoreError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

#: Seconds between two flushes.
_INTERVAL: Final = 1.0
#: Access tokens per transaction at most, so that none holds its locks for long.
_BATCH: Final = 500


class CountsStore(Protocol):
    """Adds requests, LLM tokens, cache hits and the last use to the counts of access tokens."""

    def add_counts(self, entries: Sequence[tuple[str, int, int, int, datetime]]) -> None: ...


class _Used:
    """The use of one token since its last flush; `at`: Unix seconds of the last use."""

    __slots__ = ("at", "hits", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = self.tokens = self.hits = 0
        self.at = time()


class UsageCounter:
    """Collects uses and writes them once a second. Keeps what a failing store refuses.

    One per worker.
    """

    def __init__(self, store: CountsStore) -> None:
        self._store = store
        # Token id → its use that is not written yet. Merged, so bounded by the tokens in use.
        self._pending: dict[str, _Used] = {}
        self._after_flush: Callable[[], None] = lambda: None
        self._task = PeriodicTask(
            self._run, lambda: _INTERVAL, failure="usage counter: a flush failed", log=_log
        )
        self._failures = FailureLog(
            _log.log, "usage counter", "uses are kept, not written", "uses are written again"
        )

    def add(self, token_id: str) -> None:
        """Count one request."""
        used = self._used(token_id)
        used.requests += 1
        used.at = time()

    def hit(self, token_id: str) -> None:
        """Count one response from the cache."""
        used = self._used(token_id)
        used.hits += 1
        used.at = time()

    def touch(self, token_id: str) -> None:
        """Record the time of a request that is counted elsewhere."""
        self._used(token_id).at = time()

    def spend(self, token_id: str, tokens: int) -> None:
        """Add the LLM tokens of a request that has been counted."""
        self._used(token_id).tokens += tokens

    def unwritten(self, token_id: str) -> int:
        """Return the LLM tokens that are not in the store yet; exact between two flushes."""
        used = self._pending.get(token_id)
        return 0 if used is None else used.tokens

    def start(self, after_flush: Callable[[], None] = lambda: None) -> None:
        """Flush once a second.

        `after_flush` is called between two flushes, when nothing is on its way to the store, and
        only after a flush that succeeded.
        """
        self._after_flush = after_flush
        self._task.start()

    def close(self, deadline: float) -> None:
        """Write what is left, for at most `deadline` seconds. What then remains is logged."""
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            # Not killed: the batch that is being written may be committed all the same, and would
            # be counted twice.
            self._task.finish()
            self.flush()
            while self._pending and not self._failures.failing:
                self.flush()
        if self._pending:
            _log.error("usage counter: the uses of %d access tokens were lost", len(self._pending))

    def flush(self) -> None:
        """Try once to write all that is pending now. Uses are kept whatever the store raises."""
        tokens = list(self._pending)
        for start in range(0, len(tokens), _BATCH):
            batch = [(token, self._pending.pop(token)) for token in tokens[start : start + _BATCH]]
            try:
                self._store.add_counts([_entry(token, used) for token, used in batch])
            except BaseException as error:
                self._restore(batch)
                if not isinstance(error, Exception):
                    raise
                self._failures.failed(error, traceback=not isinstance(error, StoreError))
                return
            self._failures.worked()

    def _run(self) -> None:
        self.flush()
        if not self._failures.failing:
            self._after_flush()

    def _used(self, token_id: str) -> _Used:
        used = self._pending.get(token_id)
        if used is None:
            used = self._pending[token_id] = _Used()
        return used

    def _restore(self, batch: list[tuple[str, _Used]]) -> None:
        """Merge `batch` with the uses that have come in since it was taken out."""
        for token, old in batch:
            used = self._pending.setdefault(token, old)
            if used is not old:
                used.requests += old.requests
                used.tokens += old.tokens
                used.hits += old.hits


def _entry(token_id: str, used: _Used) -> tuple[str, int, int, int, datetime]:
    at = datetime.fromtimestamp(used.at, UTC)
    return token_id, used.requests, used.tokens, used.hits, at
