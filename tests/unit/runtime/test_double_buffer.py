"""One writer, any reader, at any moment; a full disk and a killed writer included."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.runtime import double_buffer


def payload(path: Path) -> bytes:
    slot = double_buffer.read(path)
    assert slot is not None
    return slot.payload


def test_the_last_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    for text in (b"one", b"two", b"", b"three"):
        file.write(text)
        assert double_buffer.read(path) == (text, True)
    file.close()
    assert double_buffer.read(path) == (b"three", False)


def test_overwriting_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    file.write(b"x" * 100)
    size, blocks = path.stat().st_size, path.stat().st_blocks
    assert blocks * 512 >= size, "the space is taken, not only promised"

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(10):
        file.write(b"%d" % number * 1000)
    assert payload(path) == b"9" * 1000
    assert (path.stat().st_size, path.stat().st_blocks) == (size, blocks)
    # What needs more room than there is leaves what was there, and no rubbish.
    with pytest.raises(OSError, match="full"):
        file.write(b"y" * 1_000_000)
    assert double_buffer.read(path) == (b"9" * 1000, True)
    assert os.listdir(tmp_path) == ["a.samples"]
    file.write(b"smaller again")
    assert double_buffer.read(path) == (b"smaller again", True)


def test_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    for size in (10, 100_000, 20, 1_000_000, 30):
        file.write(b"z" * size)
        assert double_buffer.read(path) == (b"z" * size, True)
    assert os.listdir(tmp_path) == ["a.samples"]


def test_a_file_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    file.write(b"one")
    path.unlink()
    path.parent.rmdir()
    file.write(b"two")
    assert double_buffer.read(path) == (b"two", True)


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, b"\1" * 65_600])
def test_what_is_no_such_file_is_nothing(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.samples"
    path.write_bytes(damage)
    assert double_buffer.read(path) is None


def test_a_torn_slot_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    file.write(b"one" * 100)
    file.write(b"two" * 100)
    data = bytearray(path.read_bytes())
    data[data.index(b"twotwo") + 50] ^= 1
    path.write_bytes(data)
    assert payload(path) == b"one" * 100


def test_readers_do_not_take_each_other_for_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    file.write(b"one")
    file.close()
    with path.open("rb") as reader:
        assert double_buffer._lock(reader.fileno())
        assert double_buffer.read(path) == (b"one", False)


@pytest.mark.parametrize("written", [2, 3])
def test_a_reader_that_loses_the_processor_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """So much is written while it reads; the second slot is torn when it comes there."""
    path = tmp_path / "a.samples"
    file = double_buffer.DoubleBufferedFile(path)
    file.write(b"0" * 1000)
    file.write(b"1" * 1000)
    assert payload(path) == b"1" * 1000
    read = os.pread
    at_once = iter([True])

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        if size < 10_000 or not next(at_once, False):
            return read(descriptor, size, offset)
        half = size // 2
        first = read(descriptor, half, offset)
        for number in range(2, 2 + written):
            file.write(b"%d" % number * 1000)
        second = bytearray(read(descriptor, size - half, offset + half))
        second[500] ^= 1
        return first + bytes(second)

    monkeypatch.setattr(os, "pread", slow)
    assert payload(path) == b"%d" % (1 + written) * 1000
