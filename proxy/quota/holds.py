"""Amounts held against totals, over all workers of a node: hold, settle, release.

A request holds what it may cost before it is sent, and settles for what it did cost. Until the
store knows of that, it is *spent*: the worker that spent it keeps it in the table, so that the
others judge by it at once. What is left of a total is::

    total - used - spent - held

`used` is what the store has said, to the worker that asked last. A request is let in
while something is left. So the last one may go over the total, by no more than it costs itself, and
each one beside it by what it costs more than it held.

Amounts are whole numbers in any unit: LLM tokens, or a fraction of a currency.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from proxy.core.errors import LimiterError
from proxy.runtime.worker_table import WorkerTable

#: Keys with something held, or spent within the last seconds. With them the file has 4 MiB.
_ROWS: Final = 2048
_MAX: Final = 2**62
#: Of a row, in words: what the store has said, and when it was asked for that, in nanoseconds.
_USED_WORD: Final = 1
_ASKED_WORD: Final = 2


class Full(NamedTuple):
    """Nothing is left of the total that was wanted at place `at`.

    `in_flight`: something may be left again when requests in flight have settled.
    """

    at: int
    in_flight: bool


class NodeHolds(WorkerTable):
    """When the table cannot be had, each worker goes by its own amounts."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, b"proxy holds 1", rows=_ROWS, unit=8, numbers=2, words=3)
        #: Key → [held, spent] of this worker.
        self._own: dict[str, list[int]] = {}

    def hold(self, wanted: Sequence[tuple[str, int, int, int]]) -> Full | None:
        """Hold each `(key, amount, used, total)`, or none. Returns what refuses, or None.

        `used` is what this worker knows of the store. No key may be wanted twice. At least 1 is
        held, so that there is a row for what will be spent.
        """
        try:
            self._lock()
        except LimiterError:
            return self._hold(wanted, shared=False)
        try:
            return self._hold(wanted, shared=True)
        finally:
            self._file.unlock()

    def settle(self, held: Iterable[tuple[str, int]], spent: int = 0) -> None:
        """Once for each `(key, amount)` that was held: it cost `spent`. Never waits or fails."""
        # Without a file, or with another: it is written when the next request holds.
        with contextlib.suppress(OSError):
            self._file.check()
        for key, amount in held:
            own = self._own.setdefault(key, [0, 0])
            own[0] = max(0, own[0] - max(1, amount))
            own[1] = min(own[1] + spent, _MAX)
            self._write(key, own)

    def stored(self, key: str, used: int, left: int, asked_at: int) -> None:
        """The store says that `used` is used in all, and of what was spent here it lacks `left`.

        It was asked at `asked_at`, in nanoseconds of the wall clock. One step for the other
        workers, so that nothing counts twice or not at all.
        """
        # As a difference, since more may be spent while the lock is waited for.
        stored = self.spent(key) - left
        try:
            self._lock()
        except LimiterError:
            self._stored(key, stored)
            return
        try:
            if left:
                self._place(key, used)
            row = self._row(key)
            if row is not None:
                self._say(row, used, asked_at)
            self._stored(key, stored)
        finally:
            self._file.unlock()

    def spent(self, key: str) -> int:
        """By this worker, and not in the store."""
        own = self._own.get(key)
        return 0 if own is None else own[1]

    def _hold(self, wanted: Sequence[tuple[str, int, int, int]], *, shared: bool) -> Full | None:
        for index, (key, _, known, total) in enumerate(wanted):
            row = self._row(key) if shared else None
            used, held = self._taken(key, known, row)
            if used + held >= total and row is not None and self._give_back(row):
                used, held = self._taken(key, known, row)
            if used + held >= total:
                return Full(index, in_flight=used < total)
        for key, amount, used, _ in wanted:
            own = self._own.setdefault(key, [0, 0])
            own[0] = min(own[0] + max(1, amount), _MAX)
            if shared:
                self._place(key, used)
            self._write(key, own)
        return None

    def _taken(self, key: str, used: int, row: int | None) -> tuple[int, int]:
        """What is used or spent, and what is held, over all workers; this one's own as it knows
        it."""
        held, spent = self._own.get(key, (0, 0))
        if row is not None:
            numbers = self._columns(row)
            at = self._column * 2
            held += sum(numbers[::2]) - int(numbers[at])
            spent += sum(numbers[1::2]) - int(numbers[at + 1])
            used = max(used, int(self._file.words[row // 8 + _USED_WORD]))
        return used + spent, held

    def _stored(self, key: str, spent: int) -> None:
        own = self._own.setdefault(key, [0, 0])
        own[1] = min(max(0, own[1] - spent), _MAX)
        self._write(key, own)

    def _place(self, key: str, used: int) -> None:
        """See to it that the key has a row, if there is one."""
        if key not in self._rows and self._claim(key):
            self._file.words[self._rows[key] // 8 + _ASKED_WORD] = 0
            self._say(self._rows[key], used, 0)

    def _say(self, row: int, used: int, asked_at: int) -> None:
        """What was asked for last counts, in whichever order workers come to say it."""
        words, at = self._file.words, row // 8
        # Of a clock that went back, a later moment counts for nothing.
        if words[at + _ASKED_WORD] <= asked_at or words[at + _ASKED_WORD] > time.time_ns():
            words[at + _USED_WORD] = min(used, _MAX)
            words[at + _ASKED_WORD] = asked_at

    def _restore(self) -> None:
        for key, own in list(self._own.items()):
            self._place(key, 0)
            self._write(key, own)

    def _write(self, key: str, own: list[int]) -> None:
        self._put(key, *own)
        if not any(own):
            self._own.pop(key, None)
