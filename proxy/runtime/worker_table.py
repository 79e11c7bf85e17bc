"""Numbers that all workers of a node map into memory: a row per key, a column per worker.

A worker holds a lock on its column for as long as it lives (on one byte of the file; the kernel
releases it however the process ends), and writes to no other column. A free lock marks the numbers
that a killed worker left, which are emptied when they are in the way.

Layout, after the header of :mod:`proxy.runtime.mapped_file`::

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

#: Workers at once; during a reload the old ones still run.
_COLUMNS: Final = 128
#: Rows in which a key may be, from the one of its hash on.
_WINDOW: Final = 16
_FIRST_ROW: Final = HEADER_SIZE + 8
#: Index of the number of used columns, in halves (4 bytes).
USED: Final = HEADER_SIZE // 4
#: `struct flock` of Linux with 64 bits: type, whence, start, length, pid.
_FLOCK: Final = struct.Struct("hhqqi4x")


class WorkerTable:
    """The table, as one worker uses it. All methods but :meth:`_put` need the lock.

    A row is identified by its offset in bytes.
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
        """Create the table.

        Args:
            path: As of :class:`MappedFile`.
            kind: As of :class:`MappedFile`.
            rows: The number of rows.
            unit: Bytes of a number: 4 or 8.
            numbers: Numbers per row and worker.
            words: Words of 8 bytes per row, including the hash of its key.
        """
        self._row_count = rows
        self._unit = unit
        self._numbers = numbers
        self._head = 8 * words
        self._row_size = self._head + unit * numbers * _COLUMNS
        self._file = MappedFile(path, kind, 8 + rows * self._row_size)
        self._generation = 0
        self._column = 0
        #: Key → the row that contains this worker's numbers.
        self._rows: dict[str, int] = {}
        #: Key → its hash and its last known row. Valid only while the row has that hash.
        self._places: dict[str, tuple[int, int]] = {}

    def close(self) -> None:
        self._file.close()

    def _restore(self) -> None:
        """Write this worker's numbers into a table that is new to it, under the lock."""
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
        """Take a free column of a file that was not open before, and restore the numbers in it."""
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

    def _clear_ended(self, row: int) -> bool:
        """Empty the columns of ended workers that have numbers in this row.

        Returns whether there were any.
        """
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
        """Return where the numbers of a row begin, in units."""
        return (row + self._head) // self._unit

    def _columns(self, row: int) -> memoryview:
        """Return the numbers of all workers, column by column."""
        start = self._first(row)
        # Whatever the number in the file, this has the worker's own column and nothing of the next
        # row.
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
        """Give the key its row, or a row where all numbers are 0.

        Without such a row, this worker alone counts the key. Returns whether the row is new to it.
        """
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
        """Write this worker's numbers. Does nothing for a key without a row."""
        row = self._rows.get(key)
        if row is None or self._generation != self._file.generation:
            return
        at = self._first(row) + self._column * self._numbers
        # Backwards: what was held becomes spent, and the row must not be free in between.
        for offset in reversed(range(len(numbers))):
            self._view[at + offset] = numbers[offset]
        if not any(numbers):
            del self._rows[key]
