"""The requests in flight of each account, over all workers of a node.

Before a request is refused, the slots that killed workers held are released
(:mod:`proxy.runtime.worker_table`).

Releasing a slot always succeeds. Each worker writes only its own numbers, as absolute values, and
lowers them without the table's lock. A row goes to another account only when all its numbers are 0.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from proxy.core.errors import LimiterError
from proxy.runtime.worker_table import WorkerTable

#: Accounts with requests in flight. The file takes 1 MiB for them.
_ROWS: Final = 2048


class NodeConcurrency(WorkerTable):
    """Without the table, each worker counts its own requests: N workers allow N times the limit."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, b"proxy lanes 1", rows=_ROWS)
        #: Key → requests in flight in this worker.
        self._own: dict[str, int] = {}

    def reserve(self, limits: Sequence[tuple[str, int]]) -> int | None:
        """Reserve one slot per `(key, maximum)` pair, or none.

        Returns the index of the first full key, or None when all slots were reserved.
        """
        if not limits:
            return None
        try:
            self._lock()
        except LimiterError:
            return self._reserve(limits, shared=False)
        try:
            return self._reserve(limits, shared=True)
        finally:
            self._file.unlock()

    def release(self, keys: Iterable[str]) -> None:
        """Release one slot per key. Call it once for each key that was reserved."""
        # When the file is missing or replaced, the next `reserve` writes the numbers again.
        with contextlib.suppress(OSError):
            self._file.check()
        for key in keys:
            left = self._own[key] - 1
            if left:
                self._own[key] = left
            else:
                del self._own[key]
            self._put(key, left)

    def _reserve(self, limits: Sequence[tuple[str, int]], *, shared: bool) -> int | None:
        for index, (key, maximum) in enumerate(limits):
            row = self._row(key) if shared else None
            count = self._count(key, row)
            if count >= maximum and row is not None and self._clear_ended(row):
                count = self._count(key, row)
            if count >= maximum:
                return index
        for key, _ in limits:
            self._own[key] = own = self._own.get(key, 0) + 1
            if shared and key not in self._rows:
                self._claim(key)
            self._put(key, own)
        return None

    def _restore(self) -> None:
        for key, own in self._own.items():
            self._claim(key)
            self._put(key, own)

    def _count(self, key: str, row: int | None) -> int:
        """Return the requests in flight over all workers.

        This worker's own number comes from memory, because the table may not have it.
        """
        own = self._own.get(key, 0)
        if row is None:
            return own
        columns = self._columns(row)
        return sum(columns) - int(columns[self._column]) + own
