"""The buckets of a node: a table in a file that all its workers have in memory.

A bucket is looked for in the few slots after the place that the hash of its key names. A slot is
free when its bucket is full again, which is as good as no bucket: idle ones need no sweeping. When
all slots of a key are busy, its bucket is kept by each process for itself until there is room: no
request waits or fails for a full table, and nobody loses a bucket that is not full.

The thing to get wrong: the clock is read under the lock. Times read before it would come out of
order, and permits of the same second would be given twice. It is the clock since the machine's
start: what the file says from before that lies in the future, and is forgotten.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from proxy.ratelimit import token_bucket as arithmetic
from proxy.ratelimit.limiter import Bucket, Charge, Decision
from proxy.ratelimit.process import ProcessBuckets
from proxy.runtime.mapped_file import HEADER_SIZE, MappedFile

#: A power of two. With them the file has 2 MiB.
_SLOTS: Final = 65_536
#: How many slots a key may have its bucket in: more than enough while half of them are free.
_WINDOW: Final = 16
#: Of one slot, in words of 8 bytes: hash of the key, level, its moment, when it will be full.
_SLOT_WORDS: Final = 4
_HEADER_WORDS: Final = HEADER_SIZE // 8
#: Seconds by which the clock of one who looks without the lock may be behind a moment.
_APART: Final = 1.0
#: Keys whose slot a process remembers.
_REMEMBERED: Final = 8192
#: How often, and every how many seconds, a table is looked for that another process is making.
_TRIES: Final = 200
_PAUSE: Final = 0.005
since_boot: Final = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class NodeLimiter:
    """LimiterError: the table is locked by somebody who does not go on, or it cannot be made."""

    def __init__(
        self, path: Path, *, slots: int = _SLOTS, clock: Callable[[], float] = since_boot
    ) -> None:
        self._file = MappedFile(path, b"proxy buckets 1", slots * _SLOT_WORDS * 8)
        self._mask = slots - 1
        self._clock = clock
        self._generation = 0
        #: Key → its hash and where its slot was. Believed only while that hash stands there.
        self._places: dict[str, tuple[int, int]] = {}
        self._left_over = ProcessBuckets()

    def prepare(self) -> None:
        """Open the table, or make it; waits while another process does, for a second at most."""
        for _ in range(_TRIES):
            try:
                self._file.check()
            except OSError:
                return
            if self._file.descriptor >= 0:
                return
            time.sleep(_PAUSE)

    def take(self, demands: Sequence[Charge]) -> Decision:
        self._lock()
        try:
            now = self._clock()
            return self._take_known(demands, now) or arithmetic.take(self, demands, now)
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
        place = self._places.get(key)
        if place is None or self._words[place[1]] != place[0]:
            place = self._find(key)
            if place is None:
                return self._left_over.level(bucket, self._clock())
        at, doubles, now = place[1], self._doubles, self._clock()
        # Words are written whole; level and moment may be of two writes, some microseconds apart.
        level, moment = doubles[at + 1], doubles[at + 2]
        if moment > now + _APART:
            return per_minute  # of the time before the machine's start: nobody else would say so
        return arithmetic.refilled(level, moment, now, per_minute)

    def settle(self, charges: Sequence[Charge]) -> None:
        self._lock()
        try:
            arithmetic.settle(self, charges, self._clock())
        finally:
            self._file.unlock()

    def close(self) -> None:
        self._file.close()

    def _take_known(self, demands: Sequence[Charge], now: float) -> Decision | None:
        """What :func:`arithmetic.take` does where nothing is out of the ordinary: every bucket has
        its slot, and permits for its demand. None, and nothing was taken: it is not so.

        It is the path of a request; with a call for each level and slot it takes twice as long.
        """
        words, doubles, places = self._words, self._doubles, self._places
        levels: list[float] = []
        taken: list[tuple[int, float, int]] = []
        for (key, per_minute), permits in demands:
            place = places.get(key)
            if place is None:
                return None
            hashed, at = place
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
            levels.append(level)
        for at, level, per_minute in taken:
            doubles[at + 1] = level
            doubles[at + 2] = now
            doubles[at + 3] = now + (per_minute - level) * 60 / per_minute
        return Decision(levels)

    def level(self, bucket: Bucket, now: float) -> float:
        """While it is locked, as :meth:`keep`: see :class:`Buckets`."""
        key, per_minute = bucket
        place = self._places.get(key)
        if place is None or self._words[place[1]] != place[0]:
            place = self._find(key)
            if place is None:
                return self._left_over.level(bucket, now)
        at = place[1]
        doubles = self._doubles
        moment = doubles[at + 2]
        if moment > now:
            doubles[at + 1], doubles[at + 2], doubles[at + 3] = per_minute, now, now
        return arithmetic.refilled(doubles[at + 1], moment, now, per_minute)

    def keep(self, bucket: Bucket, level: float, now: float) -> None:
        key, per_minute = bucket
        place = self._places.get(key)
        if place is None or self._words[place[1]] != place[0]:
            place = self._find(key)
            if place is None and not self._left_over.is_busy(key, now):
                place = self._claim(key, now)
            if place is None:
                self._left_over.keep(bucket, level, now)
                return
        at = place[1]
        doubles = self._doubles
        doubles[at + 1] = level
        doubles[at + 2] = now
        doubles[at + 3] = arithmetic.full_at(level, now, per_minute)
        self._words[at] = place[0]

    def _lock(self) -> None:
        self._file.lock()
        if self._generation != self._file.generation:
            self._take_views()

    def _take_views(self) -> None:
        """Of a file that was opened since."""
        self._generation = self._file.generation
        self._words, self._doubles = self._file.words, self._file.doubles
        self._places.clear()

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
        """A free slot for a key that has none."""
        hashed = self._file.hash_of(key)
        for at in self._window(hashed):
            is_busy = self._doubles[at + 3] > now and self._doubles[at + 2] <= now
            if not is_busy:
                # Killed before it is written, this process must not leave it to the former key.
                self._words[at] = 0
                return self._remember(key, hashed, at)
        return None

    def _remember(self, key: str, hashed: int, at: int) -> tuple[int, int]:
        if len(self._places) >= _REMEMBERED:
            self._places.clear()
        place = self._places[key] = (hashed, at)
        return place
