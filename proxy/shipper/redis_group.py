"""One consumer of a consumer group on a Redis stream: it holds what it reads until acknowledged.

Note: an entry that was trimmed before delivery stays in the pending list, without content. It must
be acknowledged, or it is read again forever.
"""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import ResponseError

from proxy.events.sinks.redis import FIELD, connect

_log = logging.getLogger(__name__)

#: Approximate number of entries that the dead-letter stream keeps.
_DEAD_LENGTH: Final = 100_000
#: More than one consumer ever holds.
_MANY: Final = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry. `deliveries` counts how often it was given to a consumer, this time
    included."""

    id: str
    line: bytes
    deliveries: int = 1


class ConsumerGroup:
    """All methods raise redis.RedisError when Redis fails."""

    def __init__(self, url: str, stream: str, group: str, consumer: str) -> None:
        self._redis = connect(url)
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self.dead_stream = f"{stream}-dead"
        #: Entries that were trimmed before they could be delivered.
        self.lost = 0
        #: Entries claimed from other consumers.
        self.claimed = 0

    def create(self) -> None:
        """Make the group, from the stream's beginning, and the stream, unless they exist."""
        try:
            self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def pending(self, count: int, after: str = "0") -> list[Entry]:
        """The oldest entries that this consumer has read and not acknowledged, behind id `after`.

        Each read counts as a delivery.
        """
        return self._read(after, count, None)

    def new(self, count: int, wait: float) -> list[Entry]:
        """Entries that no consumer has read yet; waits up to `wait` seconds (0: not at all)."""
        return self._read(">", count, int(wait * 1000) or None)

    def claim(self, count: int, idle: float) -> list[Entry]:
        """Claim entries that others read `idle` seconds ago and have not acknowledged."""
        reply: Any = self._redis.xautoclaim(
            self._stream,
            self._group,
            self._consumer,
            min_idle_time=int(idle * 1000),
            count=count,
        )
        # The third part, since Redis 7, are trimmed entries; Redis has dropped them already.
        self.lost += len(reply[2]) if len(reply) > 2 else 0
        entries = self._entries(reply[1])
        self.claimed += len(entries)
        return self._with_deliveries(entries)

    def renew(self, ids: Sequence[str]) -> None:
        """Reset the idle time of these entries, so that no other consumer claims them."""
        if ids:
            # JUSTID: it is not another delivery.
            self._redis.xclaim(
                self._stream, self._group, self._consumer, 0, list(ids), idle=0, justid=True
            )

    def hand_back(self, ids: Sequence[str]) -> None:
        """Reset the delivery count of `ids`; this consumer keeps them for its next start."""
        if ids:
            self._redis.xclaim(
                self._stream,
                self._group,
                self._consumer,
                0,
                list(ids),
                idle=0,
                retrycount=0,
                justid=True,
            )

    def acknowledge(self, ids: Sequence[str]) -> None:
        if ids:
            self._redis.xack(self._stream, self._group, *ids)

    def dead_letter(self, lines: Iterable[bytes], reason: str) -> None:
        """Add lines to the dead-letter stream, for an operator to look at."""
        pipeline = self._redis.pipeline(transaction=False)
        for line in lines:
            fields = {FIELD: line.rstrip(b"\n"), "group": self._group, "reason": reason}
            pipeline.xadd(self.dead_stream, cast(Any, fields), maxlen=_DEAD_LENGTH)
        pipeline.execute()

    def lag(self) -> int | None:
        """Entries that no consumer of the group has read yet; None when Redis does not know."""
        groups: Any = self._redis.xinfo_groups(self._stream)
        for group in groups:
            if group["name"] in (self._group, self._group.encode()):
                return cast("int | None", group.get("lag"))
        return None

    def close(self) -> None:
        """Remove this consumer from the group, unless it still holds entries."""
        with contextlib.suppress(Exception):
            if not self._redis.xpending_range(
                self._stream, self._group, "-", "+", 1, self._consumer
            ):
                self._redis.xgroup_delconsumer(self._stream, self._group, self._consumer)
        self._redis.close()

    def _read(self, position: str, count: int, block: int | None) -> list[Entry]:
        reply: Any = self._redis.xreadgroup(
            self._group, self._consumer, {self._stream: position}, count=count, block=block
        )
        entries = self._entries([item for _, found in reply or [] for item in found])
        return entries if position == ">" else self._with_deliveries(entries)

    def _entries(self, found: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Entry]:
        entries, gone = [], []
        for id_, fields in found:
            name = id_.decode()
            if fields and FIELD.encode() in fields:
                entries.append(Entry(name, fields[FIELD.encode()] + b"\n"))
            else:
                gone.append(name)
        self.acknowledge(gone)
        self.lost += len(gone)
        return entries

    def _with_deliveries(self, entries: list[Entry]) -> list[Entry]:
        if not entries:
            return []
        ids = sorted((entry.id for entry in entries), key=_order)
        known: Any = self._redis.xpending_range(
            self._stream, self._group, ids[0], ids[-1], _MANY, self._consumer
        )
        counts = {item["message_id"].decode(): item["times_delivered"] for item in known}
        return [Entry(each.id, each.line, counts.get(each.id, 1)) for each in entries]


class StreamDeadLetters:
    """The dead-letter stream, as sinks see it."""

    def __init__(self, group: ConsumerGroup) -> None:
        self._group = group
        self.count = 0

    def keep(self, lines: Sequence[bytes], reason: str) -> None:
        """Raises redis.RedisError."""
        self._group.dead_letter(lines, reason)
        if not self.count:
            _log.error("usage events go to %s: %s", self._group.dead_stream, reason)
        self.count += len(lines)

    def close(self) -> None:
        """Nothing to close: the connection belongs to the group."""


def _order(id_: str) -> tuple[int, int]:
    milliseconds, _, number = id_.partition("-")
    return int(milliseconds), int(number)
