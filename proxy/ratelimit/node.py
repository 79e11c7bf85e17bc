"""The buckets of a node: a table in a file that all its workers map into memory.

A bucket lives in one of the few slots after the index that the hash of its key names. A slot is
free when its bucket is full again, which equals no bucket: idle buckets need no sweep. When all
slots of a key are busy, each process keeps its bucket for itself until there is room: no request
waits or fails for a full table, and no bucket is lost that is not full.

Note: the clock is read under the lock. Times read before it would be out of order, and permits of
the same second would be given twice. The clock counts from the machine's start: a moment that a
file has from before that start lies in the future, and is ignored.

Layout, behind the header of :mod:`proxy.runtime.mapped_file`, one slot of 32 bytes per bucket::

    u64   hash of the key
    f64   level
    f64   moment of that level, seconds since the machine's start
    f64   moment at which the bucket will be full
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from proxy.ratelimit import token_bucket
from proxy.ratelimit.limiter import Bucket, Charge, Decision
from proxy.ratelimit.process import ProcessBuckets
from proxy.runtime.mapped_file import HEADER_SIZE, MappedFile, since_boot

#: A power of two. The file takes 2 MiB for them.
_SLOTS: Final = 65_536
#: Slots in which the bucket of a key may be: more than enough while half of the table is free.
_WINDOW: Final = 16
#: The size of one slot, in words of 8 bytes.
_SLOT_WORDS: Final = 4
_HEADER_WORDS: Final = HEADER_SIZE // 8
#: By how much a clock that is read without the lock may be behind a stored moment.
_MAX_LAG_SECONDS: Final = 1.0
#: Keys whose slot a process remembers.
_MAX_REMEMBERED: Final = 8192
#: How often, and how long apart, to look for a table that another process is making.
_TRIES: Final = 200
_PAUSE_SECONDS: Final = 0.005


class NodeLimiter:
    """The limiter of one worker. Raises LimiterError when the lock of the table is not released, or
    the table cannot be made."""

    def __init__(
        self, path: Path, *, slots: int = _SLOTS, clock: Callable[[], float] = since_boot
    ) -> None:
        self._file = MappedFile(path, b"proxy buckets 1", slots * _SLOT_WORDS * 8)
        self._mask = slots - 1
        self._clock = clock
        self._generation = 0
        #: Key → its hash and the index of its slot. Valid only while the slot has that hash.
        self._slots: dict[str, tuple[int, int]] = {}
        self._overflow = ProcessBuckets()

    def prepare(self) -> None:
        """Open the table, or make it. Waits up to a second while another process makes it."""
        for _ in range(_TRIES):
            try:
                self._file.check()
            except OSError:
                return
            if self._file.descriptor >= 0:
                return
            time.sleep(_PAUSE_SECONDS)

    def take(self, charges: Sequence[Charge]) -> Decision:
        self._lock()
        try:
            now = self._clock()
            return self._take_known(charges, now) or token_bucket.take(self, charges, now)
        finally:
            self._file.unlock()

    def peek(self, bucket: Bucket) -> float:
        key, per_minute = bucket
        file = self._file
        try:
            file.check()
        except OSError:
            return per_minute
        if self._generation != file.generation:
            self._take_views()
        if file.descriptor < 0:
            return per_minute
        slot = self._slots.get(key)
        if slot is None or self._words[slot[1]] != slot[0]:
            slot = self._find(key)
            if slot is None:
                return self._overflow.level(bucket, self._clock())
        at, doubles, now = slot[1], self._doubles, self._clock()
        # Each word is written at once; level and moment may be of two writes, microseconds apart.
        level, moment = doubles[at + 1], doubles[at + 2]
        if moment > now + _MAX_LAG_SECONDS:
            return per_minute  # written before the machine's start, the only way to such a moment
        return token_bucket.refilled(level, moment, now, per_minute)

    def debit(self, charges: Sequence[Charge]) -> None:
        self._lock()
        try:
            token_bucket.debit(self, charges, self._clock())
        finally:
            self._file.unlock()

    def close(self) -> None:
        self._file.close()

    def _take_known(self, charges: Sequence[Charge], now: float) -> Decision | None:
        """Fast path of :func:`token_bucket.take`: every bucket has its slot, and enough permits.

        Returns None, with nothing taken, when that is not so. Every request runs this; with a call
        for each level and slot it would take twice as long.
        """
        words, doubles, slots = self._words, self._doubles, self._slots
        remaining: list[float] = []
        taken: list[tuple[int, float, int]] = []
        for (key, per_minute), permits in charges:
            slot = slots.get(key)
            if slot is None:
                return None
            hashed, at = slot
            moment = doubles[at + 2]
            if words[at] != hashed or moment > now:
                return None
            level = doubles[at + 1] + (now - moment) * per_minute / 60
            if not level < per_minute:
                level = per_minute
            if permits > 0:
                level -= permits
                if level < 0:
                    return None
                taken.append((at, level, per_minute))
            elif level <= 0:
                return None
            elif permits:
                level += permits
                taken.append((at, level, per_minute))
            remaining.append(level)
        for at, level, per_minute in taken:
            doubles[at + 1] = level
            doubles[at + 2] = now
            doubles[at + 3] = now + (per_minute - level) * 60 / per_minute
        return Decision(remaining)

    def level(self, bucket: Bucket, now: float) -> float:
        """See :class:`Buckets`. Like :meth:`keep`, called under the lock."""
        key, per_minute = bucket
        slot = self._slots.get(key)
        if slot is None or self._words[slot[1]] != slot[0]:
            slot = self._find(key)
            if slot is None:
                return self._overflow.level(bucket, now)
        at = slot[1]
        doubles = self._doubles
        moment = doubles[at + 2]
        if moment > now:
            doubles[at + 1], doubles[at + 2], doubles[at + 3] = per_minute, now, now
        return token_bucket.refilled(doubles[at + 1], moment, now, per_minute)

    def set_level(self, bucket: Bucket, level: float, now: float) -> None:
        key, per_minute = bucket
        slot = self._slots.get(key)
        if slot is None or self._words[slot[1]] != slot[0]:
            slot = self._find(key)
            if slot is None and not self._overflow.is_busy(key, now):
                slot = self._claim(key, now)
            if slot is None:
                self._overflow.set_level(bucket, level, now)
                return
        at = slot[1]
        doubles = self._doubles
        doubles[at + 1] = level
        doubles[at + 2] = now
        doubles[at + 3] = token_bucket.full_at(level, now, per_minute)
        self._words[at] = slot[0]

    def _lock(self) -> None:
        self._file.lock()
        if self._generation != self._file.generation:
            self._take_views()

    def _take_views(self) -> None:
        """Take the views of a file that has been opened since."""
        self._generation = self._file.generation
        self._words, self._doubles = self._file.words, self._file.doubles
        self._slots.clear()

    def _window(self, hashed: int) -> list[int]:
        return [
            _HEADER_WORDS + _SLOT_WORDS * ((hashed + step) & self._mask) for step in range(_WINDOW)
        ]

    def _find(self, key: str) -> tuple[int, int] | None:
        hashed = self._file.hash_of(key)
        for at in self._window(hashed):
            if self._words[at] == hashed:
                return self._remember(key, hashed, at)
        return None

    def _claim(self, key: str, now: float) -> tuple[int, int] | None:
        """Take a free slot for a key that has none."""
        hashed = self._file.hash_of(key)
        for at in self._window(hashed):
            is_busy = self._doubles[at + 3] > now and self._doubles[at + 2] <= now
            if not is_busy:
                # If this process is killed before the write, the slot must not show the former key.
                self._words[at] = 0
                return self._remember(key, hashed, at)
        return None

    def _remember(self, key: str, hashed: int, at: int) -> tuple[int, int]:
        if len(self._slots) >= _MAX_REMEMBERED:
            self._slots.clear()
        slot = self._slots[key] = (hashed, at)
        return slot
