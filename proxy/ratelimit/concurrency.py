"""How many requests of an account are under way, over all workers of a node.

Before a request is refused, what killed workers held is given back
(:mod:`proxy.runtime.worker_table`).

The thing to get wrong: leaving must always succeed. So each worker writes its own numbers only, as
they are and not by how much they change, and takes a number away without the table's lock: a row is
given to another account only when all its numbers are 0.
"""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from proxy.core.errors import LimiterError
from proxy.runtime.worker_table import WorkerTable

#: Accounts with requests under way. With them the file has 1 MiB.
_ROWS: Final = 2048


class NodeConcurrency(WorkerTable):
    """When the table cannot be had, each worker goes by its own requests: N times at most."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, b"proxy lanes 1", rows=_ROWS)
        #: Key → requests of this worker.
        self._own: dict[str, int] = {}

    def enter(self, limits: Sequence[tuple[str, int]]) -> int | None:
        """``limits``: keys and their most. None: all are entered; else none, and which refuses."""
        if not limits:
            return None
        try:
            self._lock()
        except LimiterError:
            return self._enter(limits, shared=False)
        try:
            return self._enter(limits, shared=True)
        finally:
            self._file.unlock()

    def leave(self, keys: Iterable[str]) -> None:
        """Once for each key that was entered."""
        # Without a file, or with another: what is left is written when the next request enters.
        with contextlib.suppress(OSError):
            self._file.check()
        for key in keys:
            left = self._own[key] - 1
            if left:
                self._own[key] = left
            else:
                del self._own[key]
            self._put(key, left)

    def _enter(self, limits: Sequence[tuple[str, int]], *, shared: bool) -> int | None:
        for index, (key, most) in enumerate(limits):
            row = self._row(key) if shared else None
            count = self._count(key, row)
            if count >= most and row is not None and self._give_back(row):
                count = self._count(key, row)
            if count >= most:
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
        """Over all workers; this one's own as it knows it, which may not stand there."""
        own = self._own.get(key, 0)
        if row is None:
            return own
        columns = self._columns(row)
        return sum(columns) - int(columns[self._column]) + own
