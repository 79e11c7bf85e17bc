"""Offsets of sinks: replaced as a whole, and the beginning when unreadable."""

import os
from pathlib import Path

import pytest

from proxy.events.spool import offsets
from proxy.events.spool.offsets import (
    START,
    Offset,
    highest_offset,
    read_offset,
    remove_offsets,
    write_offset,
)


@pytest.mark.parametrize("durable", [True, False])
def test_an_offset_survives_writing_and_reading(tmp_path: Path, durable: bool) -> None:
    assert read_offset(tmp_path, "redis") == START
    for offset in (Offset(7, 12), Offset(1_700_000_000_000, 8_388_608)):
        write_offset(tmp_path, "redis", offset, durable=durable)
        assert read_offset(tmp_path, "redis") == offset
    assert read_offset(tmp_path, "http") == START
    assert os.listdir(tmp_path) == ["redis.offset"]


GOOD = b"%016d %016d\n" % (7, 1)
CONTENTS = [b"", b"\0" * len(GOOD), b"x" + GOOD[1:], GOOD + b"8", b"7 1\n"]
CONTENTS += [GOOD[:length] for length in range(len(GOOD))]


@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_file_means_the_beginning(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "redis.offset").write_bytes(content)
    assert read_offset(tmp_path, "redis") == START


def test_an_offset_under_the_old_name_counts_until_there_is_a_new_one(tmp_path: Path) -> None:
    old = tmp_path / "redis.position"
    old.write_bytes(GOOD)
    assert read_offset(tmp_path, "redis") == highest_offset(tmp_path) == Offset(7, 1)
    write_offset(tmp_path, "redis", Offset(7, 2), durable=False)
    assert read_offset(tmp_path, "redis") == highest_offset(tmp_path) == Offset(7, 2)
    (tmp_path / "redis.offset").write_bytes(b"")  # a power cut: the old one is earlier, and whole
    assert read_offset(tmp_path, "redis") == Offset(7, 1)
    remove_offsets(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_torn_write_leaves_the_old_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the rename: the unfinished file has another name."""
    write_offset(tmp_path, "redis", Offset(1, 2))
    monkeypatch.setattr(offsets.Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_offset(tmp_path, "redis", Offset(3, 4))
    assert read_offset(tmp_path, "redis") == Offset(1, 2)


def test_a_durable_write_syncs_the_file_then_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        steps.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_offset(tmp_path, "redis", Offset(1, 2), durable=False)
    assert steps == []
    write_offset(tmp_path, "redis", Offset(1, 2))
    assert steps == ["redis.fresh", tmp_path.name]


def test_writing_to_a_removed_folder_does_nothing(tmp_path: Path) -> None:
    write_offset(tmp_path / "gone", "redis", Offset(1, 2))
    assert not (tmp_path / "gone").exists()
    assert read_offset(tmp_path / "gone", "redis") == START


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", ".hidden", "x" * 65])
def test_names_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        write_offset(tmp_path, name, Offset(1, 2))


def test_the_highest_offset_and_removal(tmp_path: Path) -> None:
    assert highest_offset(tmp_path) == START
    write_offset(tmp_path, "a", Offset(9, 1))
    write_offset(tmp_path, "b", Offset(10, 0))
    assert highest_offset(tmp_path) == Offset(10, 0)
    (tmp_path / "c.fresh").touch()
    remove_offsets(tmp_path)
    assert os.listdir(tmp_path) == []
