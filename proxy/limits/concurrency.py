"""How many requests of an account are under way, over all workers of a node.

A table in a file that all workers have in memory: a row per account, in it a number per worker. A
worker holds the lock on its column as long as it lives (on one byte of the file; the kernel lets go
of it, however the process ends). Before a request is refused, the columns whose lock is free are
emptied: what a killed worker held is given back when it would matter.

The thing to get wrong: leaving must always succeed. So each worker writes its own numbers only, as
they are and not by how much they change, and takes a number away without the table's lock: a row is
given to another account only when all its numbers are 0.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from proxy.errors import LimiterError
from proxy.limits.mapped import HEADER_SIZE, MappedFile

#: Workers at once; in a reload the old ones are still there.
_COLUMNS: Final = 128
#: Accounts with requests under way. With them the file has 1 MiB.
_ROWS: Final = 2048
_WINDOW: Final = 16
#: Of a row in bytes: the hash of its key, and the columns.
_ROW_SIZE: Final = 8 + 4 * _COLUMNS
#: After the file's own header: how many columns have ever been in use.
_FIRST_ROW: Final = HEADER_SIZE + 8
_USED: Final = HEADER_SIZE // 4
#: ``struct flock`` of Linux with 64 bits: type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")


class NodeConcurrency:
    """When the table cannot be had, each worker goes by its own requests: N times at most."""

    def __init__(self, path: Path) -> None:
        self._file = MappedFile(path, b"proxy lanes 1", 8 + _ROWS * _ROW_SIZE)
        self._generation = 0
        self._column = 0
        #: Key → requests of this worker; and the offset of the row in which they stand.
        self._own: dict[str, int] = {}
        self._rows: dict[str, int] = {}
        #: Key → its hash and where its row was. Believed only while that hash stands there.
        self._places: dict[str, tuple[int, int]] = {}

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
            self._write(key, left)

    def close(self) -> None:
        self._file.close()

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
            self._write(key, own)
        return None

    def _lock(self) -> None:
        self._file.lock()
        if self._generation == self._file.generation:
            return
        try:
            self._take_column()
        except BaseException:
            self._file.unlock()
            raise

    def _take_column(self) -> None:
        """A file that was not open before: another worker's, perhaps; then what is held now."""
        self._rows.clear()
        self._places.clear()
        for column in range(_COLUMNS):
            if self._try_column(column, fcntl.F_WRLCK):
                self._file.halves[_USED] = max(self._file.halves[_USED], column + 1)
                self._empty(column)
                break
        else:
            raise LimiterError from RuntimeError(f"more than {_COLUMNS} workers")
        self._column = column
        self._generation = self._file.generation
        for key, own in self._own.items():
            self._claim(key)
            self._write(key, own)

    def _try_column(self, column: int, kind: int) -> bool:
        wanted = _FLOCK.pack(kind, os.SEEK_SET, column, 1, 0)
        try:
            fcntl.fcntl(self._file.descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError:
            return False
        return True

    def _give_back(self, row: int) -> bool:
        """Whether a worker that is gone had requests in this row. All it held is given back."""
        found = False
        for column, count in enumerate(self._columns(row)):
            if count and column != self._column and self._try_column(column, fcntl.F_WRLCK):
                self._empty(column)
                self._try_column(column, fcntl.F_UNLCK)
                found = True
        return found

    def _empty(self, column: int) -> None:
        halves = self._file.halves
        for row in range(_ROWS):
            at = (_FIRST_ROW + row * _ROW_SIZE + 8) // 4 + column
            if halves[at]:
                halves[at] = 0

    def _columns(self, row: int) -> memoryview:
        start = row // 4 + 2
        # Whatever stands there: this worker's own is among them, and none of the next row.
        used = min(max(self._file.halves[_USED], self._column + 1), _COLUMNS)
        return self._file.halves[start : start + used]

    def _count(self, key: str, row: int | None) -> int:
        """Over all workers; this one's own as it knows it, which may not stand there."""
        own = self._own.get(key, 0)
        if row is None:
            return own
        columns = self._columns(row)
        return sum(columns) - int(columns[self._column]) + own

    def _rows_of(self, hashed: int) -> list[int]:
        rows = ((hashed + step) % _ROWS for step in range(_WINDOW))
        return [_FIRST_ROW + row * _ROW_SIZE for row in rows]

    def _row(self, key: str) -> int | None:
        words = self._file.words
        place = self._places.get(key)
        if place is not None and words[place[1] // 8] == place[0]:
            return place[1]
        hashed = self._file.hash_of(key)
        for row in self._rows_of(hashed):
            if words[row // 8] == hashed:
                return self._remember(key, hashed, row)
        return None

    def _claim(self, key: str) -> None:
        """Its row, or one where all have left. There may be none: it is then counted here alone."""
        row = self._row(key)
        if row is None:
            hashed = self._file.hash_of(key)
            row = next((row for row in self._rows_of(hashed) if not any(self._columns(row))), None)
            if row is None:
                return
            self._file.words[row // 8] = hashed
            self._remember(key, hashed, row)
        self._rows[key] = row

    def _remember(self, key: str, hashed: int, row: int) -> int:
        if len(self._places) >= _ROWS:
            self._places.clear()
        self._places[key] = (hashed, row)
        return row

    def _write(self, key: str, own: int) -> None:
        row = self._rows.get(key)
        if row is None or self._generation != self._file.generation:
            return
        self._file.halves[row // 4 + 2 + self._column] = own
        if not own:
            del self._rows[key]
