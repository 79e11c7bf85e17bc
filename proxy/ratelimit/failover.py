"""A rate limiter with a fallback: another limiter, or none, decides while the primary fails.

A failure costs time (a timeout, a lock that is not released). After a failure the primary is not
called for a pause, which grows while the failures last. Then one request tries the primary again,
and the other requests keep to the fallback until that call has returned.

Note: calls that were in flight when the primary failed return late, with failures and successes
from before. Only the request that tries again decides whether the primary works.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from proxy.core.errors import LimiterError
from proxy.ratelimit.limiter import Bucket, Charge, Decision, RateLimiter
from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog

_log = logging.getLogger(__name__)

#: Short enough for a brief failure, long enough that an outage costs next to nothing.
_MIN_PAUSE_SECONDS: Final = 0.2
_MAX_PAUSE_SECONDS: Final = 5.0


class FailoverLimiter:
    """Falls back to `fallback` while `primary` fails. Without one, LimiterError propagates.

    The fallback is charged only while it decides, so it starts with full buckets. A LimiterError
    of the fallback propagates.
    """

    def __init__(
        self,
        primary: RateLimiter,
        fallback: RateLimiter | None,
        *,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._primary = primary
        self._fallback = fallback
        self._clock = clock
        meanwhile = "requests are refused" if fallback is None else "a wider limit holds"
        self._failures = FailureLog(
            _log.log,
            f"limits: {name}",
            f"fails, {meanwhile} meanwhile",
            "decides again",
            level=logging.ERROR,
        )
        self._backoff = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        #: Failed calls of the primary.
        self.errors = 0
        #: Whether the fallback decides.
        self.failing = False
        self._pause = 0.0
        self._try_at = 0.0

    def take(self, charges: Sequence[Charge]) -> Decision:
        was_failing = self.failing
        if not was_failing or self._is_due():
            try:
                decision = self._primary.take(charges)
            except LimiterError as error:
                self._failed(error, was_failing)
                if self._fallback is None:
                    raise
            else:
                if was_failing:
                    self._worked()
                return decision
        if self._fallback is None:
            raise LimiterError
        return self._fallback.take(charges)

    def peek(self, bucket: Bucket) -> float:
        fallback = self._fallback if self.failing else None
        return (fallback or self._primary).peek(bucket)

    def debit(self, charges: Sequence[Charge]) -> None:
        """Without a fallback, what cannot be charged is lost: no request is left to refuse."""
        was_failing = self.failing
        if not was_failing or self._is_due():
            try:
                self._primary.debit(charges)
            except LimiterError as error:
                self._failed(error, was_failing)
            else:
                if was_failing:
                    self._worked()
                return
        if self._fallback is not None:
            self._fallback.debit(charges)

    def close(self) -> None:
        self._primary.close()
        if self._fallback is not None:
            self._fallback.close()

    def _is_due(self) -> bool:
        """Whether to try the failing primary again: once per pause. A new pause begins here."""
        now = self._clock()
        if now < self._try_at:
            return False
        self._try_at = now + self._pause
        return True

    def _failed(self, error: LimiterError, was_failing: bool) -> None:
        self.errors += 1
        if self.failing and not was_failing:
            return
        self.failing = True
        self._failures.failed(error)
        self._pause = self._backoff.pause()
        self._try_at = self._clock() + self._pause

    def _worked(self) -> None:
        if self.failing:
            self.failing = False
            self._backoff.reset()
            self._failures.worked(f"after {self.errors} errors")
