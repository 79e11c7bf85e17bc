"""Counts of access tokens that a killed worker had not written yet, made good from the ledger.

Counts are written once a second (:mod:`proxy.quota.usage_counter`), so a killed worker loses those
of its last second. Its events are not lost, and the ledger adds them up. The worker that adopts its
spool compares the count with the ledger, for the tokens that the killed worker had served last.

Note: the count and the ledger may each be some seconds behind the other. So a token is corrected
only when neither has changed between two comparisons. A token in use is compared again.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

from proxy.core.errors import StoreError
from proxy.runtime.periodic import PeriodicTask
from proxy.store.counters import Account

_log = logging.getLogger(__name__)

#: Seconds between two comparisons: longer than the ledger is behind.
_INTERVAL: Final = 6.0
#: Seconds after which a token that is always in use is no longer compared.
_GIVEN_UP_AFTER_SECONDS: Final = 900.0
_MAX_TOKENS: Final = 500


class Accounts(Protocol):
    """The counts of access tokens and their sums in the ledger. Both methods raise StoreError."""

    def accounted(self, token_ids: Collection[str]) -> Mapping[str, Account]: ...

    def make_good(self, token_id: str, account: Account) -> bool: ...


class _Suspect:
    __slots__ = ("seen", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.seen: Account | None = None


class Shortfalls:
    """Access tokens whose counts may be incomplete. One per worker.

    Idle until a worker is killed.
    """

    def __init__(self, store: Accounts, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._suspects: dict[str, _Suspect] = {}
        self._task = PeriodicTask(
            self.compare,
            lambda: _INTERVAL if self._suspects else None,
            failure="shortfalls: a comparison failed",
            log=_log,
            first_pause=lambda: _INTERVAL,
        )

    def killed(self, token_ids: Collection[str]) -> None:
        """Check these tokens, which a killed worker had served last. Does not wait."""
        until = self._clock() + _GIVEN_UP_AFTER_SECONDS
        for token_id in token_ids:
            if len(self._suspects) < _MAX_TOKENS:
                self._suspects[token_id] = _Suspect(until)
        self._task.start()

    def close(self) -> None:
        self._task.kill()

    def compare(self) -> None:
        """Compare once. While the store is away, this does nothing: the next call covers it."""
        with contextlib.suppress(StoreError):
            found = self._store.accounted(list(self._suspects))
            for token_id in list(self._suspects):
                self._check(token_id, found.get(token_id))

    def _check(self, token_id: str, now: Account | None) -> None:
        suspect = self._suspects[token_id]
        if now is None or self._clock() >= suspect.until:
            del self._suspects[token_id]
        elif now != suspect.seen:
            suspect.seen = now
        else:
            tokens = max(0, now.tokens_accounted - now.tokens_used)
            requests = max(0, now.requests_accounted - now.requests)
            hits = max(0, now.hits_accounted - now.hits)
            missing = tokens + requests + hits > 0
            if not missing or self._store.make_good(token_id, now):
                del self._suspects[token_id]
                if missing:
                    _log.warning(
                        "shortfalls: %d requests, %d cache hits and %d LLM tokens of a killed"
                        " worker are now counted",
                        requests,
                        hits,
                        tokens,
                    )
