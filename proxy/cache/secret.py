"""The secret of the cache's keys, as one worker has it."""

import logging
import math
import time
from collections.abc import Callable
from typing import Final

from proxy.core.errors import BackendError, ProxyError
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.singleflight import SingleFlight

_log = logging.getLogger(__name__)

#: Seconds after a failure in which it is not read again.
_PAUSE: Final = 5.0


class CacheSecret:
    """Reads the secret when the first request needs it, and keeps it.

    So an installation without a cache has none. While it cannot be read, nothing is cached.
    """

    def __init__(
        self, read: Callable[[], bytes], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`read` returns 32 bytes, the same in all workers. `clock`: monotonic seconds."""
        self._clock = clock
        self._reads = SingleFlight[bytes](
            lambda _: read(), lambda: BackendError("the read of the secret was interrupted")
        )
        self._failures = FailureLog(
            _log.log, "response cache", "its secret cannot be read, so nothing is cached"
        )
        self._failed_at = -math.inf
        self._value: bytes | None = None

    def get(self) -> bytes | None:
        """Return the secret, or None if it cannot be read now. Waits only for the first read."""
        if self._value is None and self._clock() - self._failed_at >= _PAUSE:
            try:
                # In a greenlet of its own: a client that leaves must not end it for the others.
                self._value = self._reads.spawn("").get()
            except (ProxyError, OSError, ValueError) as error:
                self._failed_at = self._clock()
                self._failures.failed(error)
            else:
                self._failures.worked()
        return self._value
