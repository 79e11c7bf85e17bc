"""Retention: segments are kept until all named sinks have passed them, folders until empty."""

import os
from pathlib import Path

import pytest

from proxy.events.spool.lock import acquire
from proxy.events.spool.offsets import Offset, read_offset, write_offset
from proxy.events.spool.retention import (
    INFLIGHT_TABLE,
    OLD_INFLIGHT_TABLE,
    reclaim,
    register_sinks,
    registered_sinks,
    tidy,
    writer_folders,
)
from proxy.events.spool.segment import segment_numbers, segment_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three segments of 10 bytes."""
    made = tmp_path / "writer"
    made.mkdir()
    for number in (1, 2, 3):
        segment_path(made, number).write_bytes(b"x" * 10)
    return made


def test_a_segment_is_removed_when_every_sink_has_passed_it(folder: Path) -> None:
    write_offset(folder, "a", Offset(3, 10))
    write_offset(folder, "b", Offset(2, 9))
    reclaim(folder, ["a", "b"])
    assert segment_numbers(folder) == [2, 3]
    write_offset(folder, "b", Offset(2, 10))
    reclaim(folder, ["a", "b"])
    assert segment_numbers(folder) == [3]


def test_a_sink_that_has_never_read_keeps_all_segments(folder: Path) -> None:
    write_offset(folder, "a", Offset(3, 10))
    reclaim(folder, ["a", "new"])
    assert segment_numbers(folder) == [1, 2, 3]


def test_a_sink_that_is_no_longer_named_keeps_nothing(folder: Path) -> None:
    write_offset(folder, "a", Offset(3, 10))
    write_offset(folder, "removed", Offset(1, 2))
    reclaim(folder, ["a"])
    assert segment_numbers(folder) == []


def test_the_live_segment_stays_and_empty_ones_are_removed(folder: Path) -> None:
    segment_path(folder, 2).write_bytes(b"")
    reclaim(folder, ["new"], live=3)
    assert segment_numbers(folder) == [1, 3]
    write_offset(folder, "new", Offset(3, 10))
    reclaim(folder, ["new"], live=3)
    assert segment_numbers(folder) == [3]


def test_offsets_are_durable_before_a_segment_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_offset(folder, "a", Offset(2, 0), durable=False)
    steps: list[str] = []
    fsync, unlink = os.fsync, Path.unlink

    def noted_fsync(descriptor: int) -> None:
        steps.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_unlink(path: Path, missing_ok: bool = False) -> None:
        steps.append("unlink " + path.name)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "unlink", noted_unlink)
    reclaim(folder, ["a"])
    assert steps == ["sync a.offset", "sync writer", "unlink 0000000000000001.log"]


def test_an_abandoned_folder_that_no_sink_needs_is_removed(folder: Path) -> None:
    write_offset(folder, "a", Offset(3, 9))
    tidy(folder, None)  # without sinks.json nothing is removed
    assert segment_numbers(folder) == [1, 2, 3]
    tidy(folder, ["a"])
    assert segment_numbers(folder) == [3]
    write_offset(folder, "a", Offset(3, 10))
    for table in (folder / INFLIGHT_TABLE, folder / OLD_INFLIGHT_TABLE):
        table.touch()
        tidy(folder, ["a"])
        assert segment_numbers(folder) == [3], "it shows which of the slots are records already"
        table.unlink()
    tidy(folder, ["a"])
    assert not folder.exists()
    tidy(folder, ["a"])
    assert read_offset(folder, "a") == Offset(0, 0)


def test_a_folder_with_an_owner_is_left_alone(folder: Path) -> None:
    write_offset(folder, "a", Offset(3, 10))
    ownership = acquire(folder)
    assert ownership is not None
    tidy(folder, ["a"])
    assert segment_numbers(folder) == [1, 2, 3]
    ownership.release()
    tidy(folder, ["a"])
    assert not folder.exists()


def test_sinks_are_registered_by_name(tmp_path: Path) -> None:
    root = tmp_path / "data" / "spool"
    assert registered_sinks(root) is None
    register_sinks(root, ["redis", "local"])
    assert registered_sinks(root) == {"redis", "local"}
    register_sinks(root, [])
    assert registered_sinks(root) == frozenset()
    assert os.listdir(root) == ["sinks.json"]
    (root / "sinks.json").write_text("[")
    assert registered_sinks(root) is None
    with pytest.raises(ValueError, match="not a name"):
        register_sinks(root, ["../x"])


def test_only_writer_folders_are_listed_oldest_first(tmp_path: Path) -> None:
    assert writer_folders(tmp_path / "none") == []
    made = ("00000000000003-1-aaaaaaaaaaaaaaaa", "00000000000001-9-bbbbbbbbbbbbbbbb")
    others = ("lost+found", "00000000000002-1-aaaaaaaaaaaaaaaa.bak")
    for name in made + others:
        (tmp_path / name).mkdir()
    (tmp_path / "00000000000002-1-cccccccccccccccc").touch()
    register_sinks(tmp_path, [])
    assert [found.name[:14] for found in writer_folders(tmp_path)] == [
        "00000000000001",
        "00000000000003",
    ]
