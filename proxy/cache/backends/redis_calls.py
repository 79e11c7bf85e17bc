"""Calls to the Redis of the response cache: several commands at once, with one deadline for all.

A Redis that fails is left alone for a pause that grows with each failure.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis import RedisError
from redis.exceptions import ResponseError

from proxy.runtime.backoff import Backoff
from proxy.runtime.failure_log import FailureLog
from proxy.runtime.redis_connections import RedisConnections

_log = logging.getLogger(__name__)

#: Per worker.
_MAX_CONNECTIONS: Final = 16
_MIN_PAUSE_SECONDS: Final = 0.2
_MAX_PAUSE_SECONDS: Final = 5.0

Command = tuple[str | bytes | int | float, ...]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds for all of a call: connecting, waiting for a connection, and every reply.

    Attributes:
        lookup: A request waits for it, and a miss costs this much at most.
        record: It decides whether a request is sent.
        write: Beside the path of requests.
    """

    lookup: float = 0.05
    record: float = 0.25
    write: float = 1.0


DEADLINES: Final = Deadlines()


class Paused(OSError):
    """Redis failed a moment ago, and is not asked."""


class RedisCalls:
    """One worker's calls. Many greenlets may make one at once."""

    def __init__(self, url: str, deadlines: Deadlines) -> None:
        """The first call connects."""
        # The deadlines of the calls are shorter, or as long.
        self._connections = RedisConnections(url, most=_MAX_CONNECTIONS, timeout=deadlines.write)
        self._failing = _Failing(longest_call=deadlines.write)

    @property
    def pauses(self) -> bool:
        """Whether Redis is not asked now."""
        return self._failing.pauses

    def close(self) -> None:
        self._connections.close()

    def __call__(
        self, commands: Sequence[Command], seconds: float, *, errors: bool = False
    ) -> list[Any]:
        """Send commands at once and return their replies, within `seconds` for all of it.

        Raises RedisError or OSError. With `errors`, error replies are returned among the others.
        """
        tries_again = self._failing.is_failing
        if not self._failing.asks():
            raise Paused("Redis failed a moment ago")
        try:
            replies = self._connections.call(
                lambda connection: _exchange(connection, commands), seconds
            )
        except (RedisError, OSError) as error:
            self._failing.failed(error, tries_again)
            raise
        except BaseException:
            self._failing.interrupted(tries_again)
            raise
        self._failing.worked(tries_again)
        if not errors:
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
        return replies


def _exchange(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands at once and return their replies, those that are errors among them."""
    connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except ResponseError as error:
            replies.append(error)
    return replies


def kind_of(error: Exception) -> str:
    """Return by which a failure is counted."""
    if isinstance(error, Paused):
        return "paused"
    if not isinstance(error, ResponseError):
        return "unavailable"
    reply = str(error)
    if "OOM" in reply or "maxmemory" in reply:
        return "full"
    return "wrong_type" if "WRONGTYPE" in reply else "refused"


class _Failing:
    """Whether Redis is asked. After a failure it is not, for a pause that grows with each failure.

    Then one call tries again, and the others keep away until it has returned.

    Note: calls that were waiting when Redis failed return late, with failures and successes of
    before. Only the call that tries again decides whether Redis works.
    """

    def __init__(self, longest_call: float) -> None:
        self._longest_call = longest_call
        self._backoff = Backoff(_MIN_PAUSE_SECONDS, _MAX_PAUSE_SECONDS)
        self._log = FailureLog(
            _log.log,
            "response cache",
            "its Redis fails, and is not asked meanwhile",
            "its Redis is asked again",
        )
        self._try_at = 0.0

    @property
    def is_failing(self) -> bool:
        return self._log.failing

    @property
    def pauses(self) -> bool:
        return self._log.failing and time.monotonic() < self._try_at

    def asks(self) -> bool:
        """Return whether a call may be made. It reports how it ended."""
        if not self._log.failing:
            return True
        now = time.monotonic()
        if now < self._try_at:
            return False
        self._try_at = now + 2 * self._longest_call
        return True

    def failed(self, error: BaseException, tried_again: bool) -> None:
        if self._log.failing and not tried_again:
            return
        self._log.failed(error)
        self._try_at = time.monotonic() + self._backoff.pause()

    def interrupted(self, tried_again: bool) -> None:
        """The caller left, so that nothing is known. If it tried again, another one does."""
        if tried_again:
            self._try_at = 0.0

    def worked(self, tried_again: bool) -> None:
        if tried_again:
            self._log.worked()
            self._backoff.reset()
