"""A file in the memory of many processes, and its lock (``proxy/runtime/mapped_file.py``).

What becomes of files that are damaged, and of holders that are, is in test_memory.py.
"""

import mmap
import os
import time
from pathlib import Path

import gevent
import pytest

from proxy.core.errors import LimiterError
from proxy.runtime.mapped_file import HEADER_SIZE, MappedFile


def make(path: Path, kind: bytes = b"kind", size: int = 64) -> MappedFile:
    return MappedFile(path, kind, size)


def test_one_writes_what_the_other_reads(tmp_path: Path) -> None:
    one, two = make(tmp_path / "file"), make(tmp_path / "file")
    one.lock()
    one.words[HEADER_SIZE // 8] = 7
    one.unlock()
    two.lock()
    assert two.words[HEADER_SIZE // 8] == 7
    two.unlock()


def test_whose_hashes_are_the_same(tmp_path: Path) -> None:
    files = [make(tmp_path / name) for name in ("file", "file", "other")]
    for file in files:
        file.lock()
        file.unlock()
    one, two, other = (file.hash_of("key") for file in files)
    assert one == two != other, "nobody outside knows which keys fall together"


def test_one_at_a_time(tmp_path: Path) -> None:
    one, two = make(tmp_path / "file"), make(tmp_path / "file")
    one.lock()
    with pytest.raises(LimiterError):
        two.lock()
    one.unlock()
    two.lock()
    with pytest.raises(LimiterError):
        one.lock()
    two.close()  # as good as unlocked
    one.lock()
    one.unlock()


def test_waiting_gives_others_a_turn(tmp_path: Path) -> None:
    one, two = make(tmp_path / "file"), make(tmp_path / "file")
    one.lock()
    gevent.spawn(one.unlock)
    two.lock()
    two.unlock()


def test_a_file_of_another_kind_is_replaced_and_the_old_one_stays_usable(tmp_path: Path) -> None:
    old, new = make(tmp_path / "file"), make(tmp_path / "file", b"other", 128)
    old.lock()
    old.unlock()
    new.lock()
    old.words[HEADER_SIZE // 8] = 9  # still a file of its own, of its old size
    assert new.words[HEADER_SIZE // 8] == 0
    new.unlock()


def test_closing_is_idempotent_and_not_for_ever(tmp_path: Path) -> None:
    file = make(tmp_path / "file")
    file.close()
    file.lock()
    generation = file.generation
    file.close()
    file.close()
    file.lock()
    assert file.generation != generation
    file.unlock()


def test_greenlets_that_wait_while_another_opens_anew(tmp_path: Path) -> None:
    """The file goes while some wait for its lock: they go on with the new one."""
    holder, file = make(tmp_path / "file"), make(tmp_path / "file")
    file.lock()
    file.unlock()
    holder.lock()

    def use() -> int:
        file.lock()
        at = HEADER_SIZE // 8
        file.words[at] += 1
        count = file.words[at]
        file.unlock()
        return count

    waiting = [gevent.spawn(use) for _ in range(3)]
    gevent.sleep(0)
    (tmp_path / "file").unlink()
    file._check_at = time.monotonic() - 1
    assert use() == 1
    assert sorted(greenlet.get() for greenlet in waiting) == [2, 3, 4]


@pytest.mark.parametrize("grown", [False, True])
def test_a_file_that_was_cut_is_made_anew_for_all(tmp_path: Path, grown: bool) -> None:
    """Each process goes on with the same new file, whichever notices first."""
    path = tmp_path / "file"
    files = [make(path), make(path)]
    for file in files:
        file.lock()
        file.unlock()
    os.truncate(path, 0)
    if grown:  # to its old size, and empty: it is not what it was
        os.truncate(path, HEADER_SIZE + 64)
    at = HEADER_SIZE // 8
    for number, file in enumerate(files):
        file._check_at = 0.0
        file.lock()
        assert file.words[at] == number
        file.words[at] += 1
        file.unlock()
    assert files[0].hash_of("key") == files[1].hash_of("key")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_cut_file_is_noticed_before_it_is_touched(tmp_path: Path) -> None:
    """Within the second between two looks: to write behind its end would end the process."""
    file = make(tmp_path / "file", size=2 * mmap.PAGESIZE)
    file.lock()
    file.unlock()
    generation = file.generation
    os.truncate(tmp_path / "file", 0)
    file.check()
    assert file.generation != generation
    os.truncate(tmp_path / "file", 0)
    file.lock()
    file.words[(HEADER_SIZE + mmap.PAGESIZE) // 8] = 7
    file.unlock()
