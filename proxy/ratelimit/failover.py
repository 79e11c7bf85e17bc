"""What decides while a limiter cannot: another one, or nobody.

A failure costs time (a timeout, a lock that does not come). So the primary is left alone for a
pause after it, which grows as long as it fails; then one request tries it again, and the others go
on as before until that one has an answer.

The thing to get wrong: requests that were on their way when it failed come back late, with failures
and successes of a time before. Only the one that tries again says how things are now.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from proxy.core.errors import LimiterError
from proxy.ratelimit.limiter import Bucket, Charge, Decision, RateLimiter

_log = logging.getLogger(__name__)

#: Seconds: short enough for a hiccup, long enough that an outage costs next to nothing.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


class FailoverLimiter:
    """``net`` decides in the meantime, and is not charged else. None: LimiterError goes out.

    A net that fails itself does so for its callers, too.
    """

    def __init__(
        self,
        primary: RateLimiter,
        net: RateLimiter | None,
        *,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._primary = primary
        self._net = net
        self._name = name
        self._clock = clock
        #: Calls of the primary that failed.
        self.errors = 0
        #: Whether the net decides.
        self.failing = False
        self._pause = _FIRST_PAUSE
        self._try_at = 0.0

    def take(self, demands: Sequence[Charge]) -> Decision:
        was_failing = self.failing
        if not was_failing or self._is_due():
            try:
                decision = self._primary.take(demands)
            except LimiterError as error:
                self._failed(error, was_failing)
                if self._net is None:
                    raise
            else:
                if was_failing:
                    self._worked()
                return decision
        if self._net is None:
            raise LimiterError
        return self._net.take(demands)

    def peek(self, bucket: Bucket) -> float:
        net = self._net if self.failing else None
        return (net or self._primary).peek(bucket)

    def settle(self, charges: Sequence[Charge]) -> None:
        """What cannot be charged is lost when there is no net: nothing is left to be refused."""
        was_failing = self.failing
        if not was_failing or self._is_due():
            try:
                self._primary.settle(charges)
            except LimiterError as error:
                self._failed(error, was_failing)
            else:
                if was_failing:
                    self._worked()
                return
        if self._net is not None:
            self._net.settle(charges)

    def close(self) -> None:
        self._primary.close()
        if self._net is not None:
            self._net.close()

    def _is_due(self) -> bool:
        """Whether to ask the primary while it fails: once per pause, which begins here."""
        now = self._clock()
        if now < self._try_at:
            return False
        self._try_at = now + self._pause
        return True

    def _failed(self, error: LimiterError, was_failing: bool) -> None:
        self.errors += 1
        if was_failing:
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        elif self.failing:
            return
        else:
            self.failing = True
            self._pause = _FIRST_PAUSE
            meanwhile = "requests are refused" if self._net is None else "a wider net holds"
            _log.error("limits: %s fails, %s meanwhile: %r", self._name, meanwhile, error.__cause__)
        self._try_at = self._clock() + self._pause

    def _worked(self) -> None:
        if self.failing:
            self.failing = False
            _log.warning("limits: %s decides again after %d errors", self._name, self.errors)
