"""Charges of what has been used already, collected and passed to a limiter in batches.

For a limiter that does I/O, so that no request waits for it after its response. Charges of one
bucket are added up: under a flood the backlog has one entry per bucket, however late the greenlet
runs.
"""

import logging
import math
from collections.abc import Sequence
from typing import Final

import gevent

from proxy.ratelimit.limiter import Bucket, Charge, RateLimiter
from proxy.runtime.periodic import PeriodicTask

_log = logging.getLogger(__name__)

#: Between two batches: how much later a charge may take effect.
_PAUSE_SECONDS: Final = 0.05
#: Buckets per call, so that no call holds up the limiter for long.
_MAX_BATCH: Final = 500


class BatchedCharges:
    """Collects charges for `limiter`, which has a fallback of its own. One per worker."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        # Permits not charged yet.
        self._pending: dict[Bucket, int] = {}
        self._task = PeriodicTask(
            self._flush,
            lambda: math.inf,
            failure="limits: a batch of charges failed",
            log=_log,
            min_pause=_PAUSE_SECONDS,
        )

    def debit(self, charges: Sequence[Charge]) -> None:
        """As :meth:`RateLimiter.debit`, a moment later. Neither waits nor raises."""
        for bucket, permits in charges:
            self._pending[bucket] = self._pending.get(bucket, 0) + permits
        self._task.wake()

    def start(self) -> None:
        self._task.start()

    def close(self, deadline: float) -> None:
        """Charge what is left, for at most `deadline` seconds."""
        self._task.kill()
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            while self._pending:
                self._flush()

    def _flush(self) -> None:
        """Charge all that is pending now. Charges that arrive during it wait, and are added up.

        What the limiter fails to charge is lost, and logged.
        """
        buckets = list(self._pending)
        for start in range(0, len(buckets), _MAX_BATCH):
            chosen = buckets[start : start + _MAX_BATCH]
            batch = [Charge(bucket, self._pending.pop(bucket)) for bucket in chosen]
            try:
                self._limiter.debit(batch)
            except Exception:  # noqa: BLE001  (a defect must not end the greenlet)
                _log.exception("limits: %d charges were lost", len(batch))
