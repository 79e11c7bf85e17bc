"""Amounts held against totals, over all workers of a node: hold, settle, release.

Before it is sent, a request holds what it may cost. Afterwards it settles for what it did cost.
Until the store knows of that amount, it is *spent*: the worker that spent it keeps it in the table,
so that the other workers take it into account at once. What is left of a total is::

    total - used - spent - held

`used` is the store's count, as the worker read it that asked last. A request is admitted while
something is left. So the last request may exceed the total by no more than its own cost, and each
request beside it by the part of its cost that it did not hold.

Amounts are whole numbers in any unit: LLM tokens, or a fraction of a currency.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from proxy.core.errors import LimiterError
from proxy.runtime.worker_table import WorkerTable

#: Keys with an amount held, or spent within the last seconds. With these rows the file has 4 MiB.
_ROWS: Final = 2048
_MAX_AMOUNT: Final = 2**62
#: Words of a row: the store's count, and when the store was asked for it, in Unix nanoseconds.
_USED_WORD: Final = 1
_ASKED_WORD: Final = 2


class Full(NamedTuple):
    """Nothing is left of the total at index `at` of those wanted.

    `in_flight`: something may be left again when requests in flight have settled.
    """

    at: int
    in_flight: bool


class NodeHolds(WorkerTable):
    """The amounts held and spent by all workers of a node, in a mapped file.

    While the file cannot be used, each worker decides by its own amounts.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, b"proxy holds 1", rows=_ROWS, unit=8, numbers=2, words=3)
        #: Key → [held, spent] by this worker.
        self._own: dict[str, list[int]] = {}

    def hold(self, wanted: Sequence[tuple[str, int, int, int]]) -> Full | None:
        """Hold each `(key, amount, used, total)`, or none. Returns the first full total, or None.

        `used` is the store's count as far as this worker knows it. No key may be wanted twice. At
        least 1 is held, so that there is a row for the amount that will be spent.
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
        """Release each `(key, amount)` that was held, and count `spent` for each key.

        Called once for each hold. Never waits or fails.
        """
        # Without a file, or with a new one, the amounts are written by the next `hold`.
        with contextlib.suppress(OSError):
            self._file.check()
        for key, amount in held:
            own = self._own.setdefault(key, [0, 0])
            own[0] = max(0, own[0] - max(1, amount))
            own[1] = min(own[1] + spent, _MAX_AMOUNT)
            self._write(key, own)

    def stored(self, key: str, used: int, left: int, asked_at: int) -> None:
        """Take over the store's count `used`, which lacks `left` of the amount spent here.

        The store was asked at `asked_at`, in Unix nanoseconds. The other workers see one step, so
        that nothing counts twice or not at all.
        """
        # A difference, because more may be spent while this waits for the lock.
        stored = self.spent(key) - left
        try:
            self._lock()
        except LimiterError:
            self._stored(key, stored)
            return
        try:
            if left:
                self._ensure_row(key, used)
            row = self._row(key)
            if row is not None:
                self._write_used(row, used, asked_at)
            self._stored(key, stored)
        finally:
            self._file.unlock()

    def spent(self, key: str) -> int:
        """Return the amount that this worker has spent and the store does not count yet."""
        own = self._own.get(key)
        return 0 if own is None else own[1]

    def _hold(self, wanted: Sequence[tuple[str, int, int, int]], *, shared: bool) -> Full | None:
        for index, (key, _, known, total) in enumerate(wanted):
            row = self._row(key) if shared else None
            used, held = self._taken(key, known, row)
            if used + held >= total and row is not None and self._clear_ended(row):
                used, held = self._taken(key, known, row)
            if used + held >= total:
                return Full(index, in_flight=used < total)
        for key, amount, used, _ in wanted:
            own = self._own.setdefault(key, [0, 0])
            own[0] = min(own[0] + max(1, amount), _MAX_AMOUNT)
            if shared:
                self._ensure_row(key, used)
            self._write(key, own)
        return None

    def _taken(self, key: str, used: int, row: int | None) -> tuple[int, int]:
        """Return the amount used or spent, and the amount held, over all workers.

        This worker's part is what it knows itself, which may not be in the table.
        """
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
        own[1] = min(max(0, own[1] - spent), _MAX_AMOUNT)
        self._write(key, own)

    def _ensure_row(self, key: str, used: int) -> None:
        """Give the key a row, if one is free."""
        if key not in self._rows and self._claim(key):
            self._file.words[self._rows[key] // 8 + _ASKED_WORD] = 0
            self._write_used(self._rows[key], used, 0)

    def _write_used(self, row: int, used: int, asked_at: int) -> None:
        """Write the store's count, unless a worker has written one that was asked for later."""
        words, at = self._file.words, row // 8
        # A moment in the future comes from a clock that was set back, and is ignored.
        if words[at + _ASKED_WORD] <= asked_at or words[at + _ASKED_WORD] > time.time_ns():
            words[at + _USED_WORD] = min(used, _MAX_AMOUNT)
            words[at + _ASKED_WORD] = asked_at

    def _restore(self) -> None:
        for key, own in list(self._own.items()):
            self._ensure_row(key, 0)
            self._write(key, own)

    def _write(self, key: str, own: list[int]) -> None:
        self._put(key, *own)
        if not any(own):
            self._own.pop(key, None)
