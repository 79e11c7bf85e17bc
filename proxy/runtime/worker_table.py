"""Numbers that all workers of a node have in memory: a row per key, a column per worker.

A worker holds the lock on its column as long as it lives (on one byte of the file; the kernel
releases it however the process ends), and writes into no other column. What a killed worker left is
recognised by that lock, and emptied when it is in the way.

Layout, behind the header of :mod:`proxy.runtime.mapped_file`::

    u64   how many columns have ever been in use
    rows  u64 hash of the key | further words | per column its numbers

A row stays with its key until all its numbers are 0 and another key needs it.
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from proxy.core.errors import LimiterError
from proxy.runtime.mapped_file import HEADER_SIZE, MappedFile

#: Workers at once; in a reload the old ones are still there.
_COLUMNS: Final = 128
_WINDOW: Final = 16
_FIRST_ROW: Final = HEADER_SIZE + 8
#: Where the number of columns stands, in halves.
USED: Final = HEADER_SIZE // 4
#: ``struct flock`` of Linux with 64 bits: type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")


class WorkerTable:
    """The table of one worker. All methods but :meth:`_put` need the lock.

    A row is known by its offset in bytes.
    """

    def __init__(
        self,
        path: Path,
        kind: bytes,
        *,
        rows: int,
        unit: int = 4,
        numbers: int = 1,
        words: int = 1,
    ) -> None:
        """``numbers`` of ``unit`` bytes (4 or 8) per worker; ``words`` of 8 bytes per row, the hash
        of its key included."""
        self._row_count = rows
        self._unit = unit
        self._numbers = numbers
        self._head = 8 * words
        self._row_size = self._head + unit * numbers * _COLUMNS
        self._file = MappedFile(path, kind, 8 + rows * self._row_size)
        self._generation = 0
        self._column = 0
        #: Key → the row in which this worker's numbers stand.
        self._rows: dict[str, int] = {}
        #: Key → its hash and where its row was. Believed only while that hash stands there.
        self._places: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        self._file.close()

    def _restore(self) -> None:
        """Write what this worker has into a table that is new to it, under the lock."""
        raise NotImplementedError

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
                self._file.halves[USED] = max(self._file.halves[USED], column + 1)
                self._empty(column)
                break
        else:
            raise LimiterError from RuntimeError(f"more than {_COLUMNS} workers")
        self._column = column
        self._generation = self._file.generation
        self._restore()

    def _try_column(self, column: int, kind: int) -> bool:
        wanted = _FLOCK.pack(kind, os.SEEK_SET, column, 1, 0)
        try:
            fcntl.fcntl(self._file.descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError:
            return False
        return True

    def _give_back(self, row: int) -> bool:
        """Whether a worker that is gone had numbers in this row. All it held is given back."""
        found = False
        for at, number in enumerate(self._columns(row)):
            column = at // self._numbers
            if number and column != self._column and self._try_column(column, fcntl.F_WRLCK):
                self._empty(column)
                self._try_column(column, fcntl.F_UNLCK)
                found = True
        return found

    def _empty(self, column: int) -> None:
        view = self._view
        for row in range(self._row_count):
            at = self._first(_FIRST_ROW + row * self._row_size) + column * self._numbers
            for number in range(at, at + self._numbers):
                if view[number]:
                    view[number] = 0

    @property
    def _view(self) -> memoryview:
        return self._file.halves if self._unit == 4 else self._file.words

    def _first(self, row: int) -> int:
        """Where the numbers of a row begin, in units."""
        return (row + self._head) // self._unit

    def _columns(self, row: int) -> memoryview:
        """The numbers of all workers, column by column."""
        start = self._first(row)
        # Whatever stands there: this worker's own is among them, and none of the next row.
        used = min(max(self._file.halves[USED], self._column + 1), _COLUMNS)
        return self._view[start : start + used * self._numbers]

    def _rows_of(self, hashed: int) -> list[int]:
        rows = ((hashed + step) % self._row_count for step in range(_WINDOW))
        return [_FIRST_ROW + row * self._row_size for row in rows]

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

    def _claim(self, key: str) -> bool:
        """Its row, or one where all numbers are 0. There may be none: it is then counted here
        alone. Returns whether the row was another key's."""
        row = self._row(key)
        is_new = row is None
        if row is None:
            hashed = self._file.hash_of(key)
            row = next((row for row in self._rows_of(hashed) if not any(self._columns(row))), None)
            if row is None:
                return False
            self._file.words[row // 8] = hashed
            self._remember(key, hashed, row)
        self._rows[key] = row
        return is_new

    def _remember(self, key: str, hashed: int, row: int) -> int:
        if len(self._places) >= self._row_count:
            self._places.clear()
        self._places[key] = (hashed, row)
        return row

    def _put(self, key: str, *numbers: int) -> None:
        """This worker's numbers. Of a key that has no row, nothing is written."""
        row = self._rows.get(key)
        if row is None or self._generation != self._file.generation:
            return
        at = self._first(row) + self._column * self._numbers
        # What is held becomes what is spent: the last first, or the row would be free in between.
        for offset in reversed(range(len(numbers))):
            self._view[at + offset] = numbers[offset]
        if not any(numbers):
            del self._rows[key]
