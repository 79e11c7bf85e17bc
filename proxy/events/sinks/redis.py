"""Events to a Redis stream, from which dispatchers read them.

Note: a write that failed may have been done, completely or in part. The caller tries again, and a
reader recognises an event by its id.
"""

from collections.abc import Sequence
from typing import Final

from redis import Redis

from proxy.events.sinks.base import DeadLetters, SinkOptions
from proxy.runtime.redis import connection_options

#: The field of a stream's entry that holds the event's JSON, without its line end.
FIELD: Final = "event"
_CONNECT_TIMEOUT: Final = 3.0
_READ_TIMEOUT: Final = 10.0


def connect(url: str) -> Redis:
    """A client that raises at the first failure. Nothing is connected before the first call."""
    return Redis.from_url(url, **connection_options(_CONNECT_TIMEOUT, _READ_TIMEOUT, url=url))


class RedisSink:
    """XADD to `stream`, which is trimmed to about `max_length` entries, oldest first."""

    @classmethod
    def from_options(cls, options: SinkOptions, _dead: DeadLetters) -> "RedisSink":
        return cls(
            options.redis_url,
            options.event_stream,
            max_length=options.event_stream_max_length,
        )

    def __init__(self, url: str, stream: str, *, max_length: int) -> None:
        self._redis = connect(url)
        self._stream = stream
        self._max_length = max_length

    def write(self, batch: Sequence[bytes]) -> None:
        """Raises redis.RedisError; a part of the batch may then be there already."""
        pipeline = self._redis.pipeline(transaction=False)
        for line in batch:
            pipeline.xadd(
                self._stream,
                {FIELD: line.rstrip(b"\n")},
                maxlen=self._max_length,
                approximate=True,
            )
        pipeline.execute()

    def close(self) -> None:
        self._redis.close()
