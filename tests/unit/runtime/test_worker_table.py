"""Columns of workers and rows of keys (``proxy/runtime/worker_table.py``); see also its two
users."""

from pathlib import Path

import pytest

from proxy.runtime.worker_table import USED, WorkerTable


class Table(WorkerTable):
    """Two numbers of 8 bytes a worker, and a word of the row's own."""

    def __init__(self, path: Path, rows: int = 64) -> None:
        super().__init__(path, b"test", rows=rows, unit=8, numbers=2, words=2)
        self.restored = 0

    def _restore(self) -> None:
        self.restored += 1

    def put(self, key: str, *numbers: int) -> bool:
        self._lock()
        is_new = self._claim(key)
        self._put(key, *numbers)
        self._file.unlock()
        return is_new

    def numbers(self, key: str) -> list[int] | None:
        self._lock()
        row = self._row(key)
        found = None if row is None else self._columns(row).tolist()
        self._file.unlock()
        return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "limits" / "table"


def test_each_worker_has_a_column_in_the_rows_of_all(place: Path) -> None:
    one, two = Table(place), Table(place)
    assert one.put("a", 1, 2)
    assert not two.put("a", 2**63, 4)
    assert one.numbers("a") == two.numbers("a") == [1, 2, 2**63, 4]
    assert one.numbers("b") is None
    assert (one.restored, two.restored) == (1, 1)
    assert one._file.halves[USED] == 2


def test_a_row_is_another_key_s_when_all_have_put_0(place: Path) -> None:
    one, two = Table(place, rows=1), Table(place, rows=1)
    one.put("a", 1, 0)
    two.put("a", 0, 1)
    assert not one.put("b", 7, 7)
    one.put("a", 0, 0)
    assert not one.put("b", 7, 7)
    two.put("a", 0, 0)
    assert one.put("b", 7, 7)
    assert two.numbers("b") == [7, 7, 0, 0]
    assert two.numbers("a") is None


def test_a_worker_that_is_gone_leaves_its_column(place: Path) -> None:
    one, two, three = Table(place), Table(place), Table(place)
    one.put("a", 1, 1)
    two.put("a", 2, 2)
    one.close()
    two._lock()
    row = two._row("a")
    assert row is not None
    assert two._clear_ended(row)
    assert not two._clear_ended(row)
    two._file.unlock()
    assert two.numbers("a") == [0, 0, 2, 2]
    three.put("a", 3, 3)
    assert two.numbers("a") == [3, 3, 2, 2]
