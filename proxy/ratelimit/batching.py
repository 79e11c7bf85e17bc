"""What has been used already and is charged later: collected, and handed on in batches.

For a limiter that does I/O, so that no request waits for it after its answer. The thing to get
wrong: a greenlet that comes late must not find a backlog that grows; charges of one bucket are
added up, so that a flood is as many entries as it has buckets.
"""

import logging
from collections.abc import Sequence
from typing import Final

import gevent
from gevent.event import Event

from proxy.ratelimit.limiter import Bucket, Charge, RateLimiter

_log = logging.getLogger(__name__)

#: Between two batches, in seconds: how much later a charge may be felt.
_PAUSE: Final = 0.05
#: At most so many buckets a call, so that none holds up the limiter for long.
_BATCH: Final = 500


class BatchedCharges:
    """One per worker, in front of ``limiter``, which has a net of its own for when it fails."""

    def __init__(self, limiter: RateLimiter) -> None:
        self._limiter = limiter
        # Permits not charged yet.
        self._pending: dict[Bucket, int] = {}
        self._wanted = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None

    def settle(self, charges: Sequence[Charge]) -> None:
        """As :meth:`RateLimiter.settle`, soon. Neither waits nor raises."""
        for bucket, permits in charges:
            self._pending[bucket] = self._pending.get(bucket, 0) + permits
        self._wanted.set()

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, deadline: float) -> None:
        """Charge what is left, for ``deadline`` seconds at the most."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill()
        with gevent.Timeout(deadline, False):  # type: ignore[arg-type]  # it ends silently
            while self._pending:
                self._flush()

    def _flush(self) -> None:
        """Charge all that is pending now; what comes meanwhile waits, to be added up. What the
        limiter refuses is lost, and logged."""
        buckets = list(self._pending)
        for start in range(0, len(buckets), _BATCH):
            chosen = buckets[start : start + _BATCH]
            batch = [Charge(bucket, self._pending.pop(bucket)) for bucket in chosen]
            try:
                self._limiter.settle(batch)
            except Exception:  # noqa: BLE001  (a defect of ours must not end it)
                _log.exception("limits: %d charges were lost", len(batch))

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            self._flush()
            gevent.sleep(_PAUSE)
