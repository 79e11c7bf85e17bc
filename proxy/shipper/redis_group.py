"""One consumer of a consumer group on a Redis stream: what it reads is its own until acknowledged.

The thing to get wrong: an entry that was trimmed away before anybody took it still stands in the
pending list, without content. It must be acknowledged, or it is read again for ever.
"""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from redis import ResponseError

from proxy.events.sinks.redis import FIELD, connect

_log = logging.getLogger(__name__)

#: Entries that the dead-letter stream keeps, about.
_DEAD_LENGTH: Final = 100_000
#: More than one consumer ever holds.
_MANY: Final = 100_000


@dataclass(frozen=True, slots=True)
class Entry:
    """``deliveries``: how often it was given to a consumer, this time included."""

    id: str
    line: bytes
    deliveries: int = 1


class ConsumerGroup:
    """Raises redis.RedisError whenever Redis does not answer as it should."""

    def __init__(self, url: str, stream: str, group: str, consumer: str) -> None:
        self._redis = connect(url)
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self.dead_stream = f"{stream}-dead"
        #: Entries that were trimmed away before they could be delivered.
        self.lost = 0
        #: Entries taken over from consumers that are gone.
        self.claimed = 0

    def create(self) -> None:
        """Make the group, from the stream's beginning on, unless it is there; the stream too."""
        try:
            self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def pending(self, count: int, after: str = "0") -> list[Entry]:
        """The oldest of what this consumer was given before and has not acknowledged.

        Each time counts as a delivery: ``after``, an entry's id, leaves out those up to it.
        """
        return self._read(after, count, None)

    def new(self, count: int, wait: float) -> list[Entry]:
        """What nobody was given yet; waits up to ``wait`` seconds for it (0: not at all)."""
        return self._read(">", count, int(wait * 1000) or None)

    def claim(self, count: int, idle: float) -> list[Entry]:
        """Take over what others were given ``idle`` seconds ago and have not acknowledged."""
        answer: Any = self._redis.xautoclaim(
            self._stream,
            self._group,
            self._consumer,
            min_idle_time=int(idle * 1000),
            count=count,
        )
        # The third part, since Redis 7, are entries that are gone; Redis has dropped them already.
        self.lost += len(answer[2]) if len(answer) > 2 else 0
        entries = self._entries(answer[1])
        self.claimed += len(entries)
        return self._with_deliveries(entries)

    def hold(self, ids: Sequence[str]) -> None:
        """Say that these are still being worked on, so that nobody claims them."""
        if ids:
            # JUSTID: it is not another delivery.
            self._redis.xclaim(
                self._stream, self._group, self._consumer, 0, list(ids), idle=0, justid=True
            )

    def hand_back(self, ids: Sequence[str]) -> None:
        """They stay this consumer's, for its next start, as if they had never been given out."""
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

    def bury(self, lines: Iterable[bytes], reason: str) -> None:
        """Put lines into the dead-letter stream, for somebody to look at."""
        pipeline = self._redis.pipeline(transaction=False)
        for line in lines:
            fields = {FIELD: line.rstrip(b"\n"), "group": self._group, "reason": reason}
            pipeline.xadd(self.dead_stream, cast(Any, fields), maxlen=_DEAD_LENGTH)
        pipeline.execute()

    def lag(self) -> int | None:
        """Entries that no consumer of the group was given yet; None when Redis cannot tell."""
        groups: Any = self._redis.xinfo_groups(self._stream)
        for group in groups:
            if group["name"] in (self._group, self._group.encode()):
                return cast("int | None", group.get("lag"))
        return None

    def close(self) -> None:
        """Take this consumer out of the group, unless something still is its own."""
        with contextlib.suppress(Exception):
            if not self._redis.xpending_range(
                self._stream, self._group, "-", "+", 1, self._consumer
            ):
                self._redis.xgroup_delconsumer(self._stream, self._group, self._consumer)
        self._redis.close()

    def _read(self, position: str, count: int, block: int | None) -> list[Entry]:
        answer: Any = self._redis.xreadgroup(
            self._group, self._consumer, {self._stream: position}, count=count, block=block
        )
        entries = self._entries([item for _, found in answer or [] for item in found])
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
        self._group.bury(lines, reason)
        if not self.count:
            _log.error("usage events go to %s: %s", self._group.dead_stream, reason)
        self.count += len(lines)

    def close(self) -> None:
        """The group's connection is not ours to close."""


def _order(id_: str) -> tuple[int, int]:
    milliseconds, _, number = id_.partition("-")
    return int(milliseconds), int(number)
