"""A worker's side of the spool: what it keeps, gives back, and says when the disk fails."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.events.spool import writer as journal_module
from proxy.events.spool.lock import is_owned
from proxy.events.spool.offsets import START, Offset, read_position, write_position
from proxy.events.spool.retention import LOCAL, registered_sinks, writer_folders
from proxy.events.spool.segment import encode_record, read_batch, segment_numbers, segment_path
from proxy.events.spool.writer import SpoolSettings, SpoolWriter


def make(root: Path, **changes: Any) -> SpoolWriter:
    settings: dict[str, Any] = {
        "root": root,
        "sinks": frozenset({LOCAL}),
        "max_bytes": 1024 * 1024,
        "fsync_interval": 3600.0,
        "slots": 4,
    }
    journal = SpoolWriter(SpoolSettings(**settings | changes))
    journal.open()
    return journal


def records(first: int, count: int) -> list[bytes]:
    return [encode_record(b"%020d\n" % number) for number in range(first, first + count)]


def only_folder(root: Path) -> Path:
    (folder,) = writer_folders(root)
    return folder


def texts(journal: SpoolWriter) -> list[str]:
    return [text for _, text in journal.notices]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool"


def test_a_life(root: Path) -> None:
    journal = make(root, sinks=frozenset({LOCAL, "redis"}))
    assert registered_sinks(root) == {LOCAL, "redis"}
    first = journal.append(records(0, 3), None)
    second = journal.append(records(3, 3), first)
    folder = only_folder(root)
    assert read_position(folder, LOCAL) == first
    assert len(read_batch(folder, START).lines) == 6
    journal.maintain(second)
    assert read_position(folder, LOCAL) == second
    journal.close(second)
    assert not is_owned(folder)
    assert segment_numbers(folder), "the other sink has not got them"
    assert not journal.notices


def test_nothing_is_left_when_everybody_has_everything(root: Path) -> None:
    journal = make(root)
    position = journal.append(records(0, 3), None)
    journal.close(position)
    assert writer_folders(root) == []
    journal.close(position)


def test_what_the_local_sinks_lack_is_left(root: Path) -> None:
    journal = make(root)
    position = journal.append(records(0, 3), None)
    assert position is not None
    journal.append(records(3, 3), position)
    journal.close(position)
    folder = only_folder(root)
    assert len(read_batch(folder, read_position(folder, LOCAL)).lines) == 3


def test_open_slots_are_left_and_nobody_elses_until_the_process_ends(root: Path) -> None:
    journal = make(root)
    assert journal.intents is not None
    slot = journal.intents.begin(b"x\n")
    journal.close(None)
    folder = only_folder(root)
    assert is_owned(folder)
    journal.intents.finish(slot, b"y\n")  # still running


def test_segments_are_given_back_while_it_lives(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make(root, sinks=frozenset({LOCAL, "redis"}))
    folder = only_folder(root)
    position = journal.append(records(0, 3), None)
    assert position is not None
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 3600)
    journal.maintain(position)
    assert segment_numbers(folder) == [position.segment]
    write_position(folder, "redis", position)
    journal.maintain(position)
    assert segment_numbers(folder) == []
    later = journal.append(records(3, 1), position)
    assert later is not None
    assert later.segment > position.segment
    journal.maintain(later)
    assert segment_numbers(folder) == [later.segment], "it is being written"
    journal.close(later)


def test_when_it_reaches_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda d: synced.append(os.readlink(f"/proc/self/fd/{d}")))
    each = make(root, fsync_interval=0.0)
    position = each.append(records(0, 1), None)
    assert position is not None
    segment = str(segment_path(only_folder(root), position.segment))
    assert synced.count(segment) == 1
    each.append(records(1, 1), None)
    assert synced.count(segment) == 2
    each.close(None)

    synced.clear()
    now = time.monotonic()
    other = root.with_name("other")
    timed = make(other, fsync_interval=1.0)
    position = timed.append(records(0, 1), None)
    assert position is not None
    segment = str(segment_path(only_folder(other), position.segment))
    monkeypatch.setattr("time.monotonic", lambda: now + 0.5)
    timed.maintain(None)
    assert segment not in synced
    monkeypatch.setattr("time.monotonic", lambda: now + 2)
    timed.maintain(None)
    assert synced.count(segment) == 1
    timed.close(None)


def test_a_full_disk_is_told_once_and_its_loss_is_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make(root)
    whole = journal.append(records(0, 1), None)
    write = os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) > 100:
            return write(descriptor, data[:45])
        if len(data) > 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            assert journal.append(records(1, 4), whole) is None
    assert journal.unspooled == 9, "one of each batch had room"
    assert texts(journal) == [f"the spool in {root} cannot be written: No space left on device"]
    position = journal.append(records(5, 1), whole)
    assert position is not None
    assert texts(journal)[1:] == ["the spool can be written again; 9 events are not in it"]
    assert len(read_batch(only_folder(root), START).lines) == 1 + 3 + 1
    journal.close(position)
    assert writer_folders(root) == []


def test_a_folder_that_cannot_be_made_is_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.parent.mkdir()
    root.write_text("in the way")
    journal = make(root)
    assert journal.append(records(0, 2), None) is None
    journal.maintain(None)
    assert len(journal.notices) == 1
    root.unlink()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)
    journal.maintain(None)
    assert journal.append(records(2, 1), None) is not None
    assert journal.intents is not None
    assert texts(journal)[1:] == ["the spool can be made again; 2 events are not in it"]
    journal.close(None)


def test_slots_that_find_no_room_are_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        journal = make(root)
    assert journal.intents is None
    assert journal.append(records(0, 1), None) is not None, "the spool works without"
    assert len(journal.notices) == 1
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)
    journal.maintain(None)
    assert journal.intents is not None
    assert len(writer_folders(root)) == 1
    journal.close(None)


def test_a_folder_that_somebody_removes_is_made_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make(root)
    journal.append(records(0, 1), None)
    folder = only_folder(root)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)
    journal.maintain(Offset(1, 1))
    assert journal.append(records(1, 1), None) is not None
    assert len(read_batch(only_folder(root), START).lines) == 1
    journal.close(None)


def test_a_folder_that_cannot_be_looked_at_is_told_and_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = make(root)

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", broken)
        journal.maintain(None)
        journal.maintain(None)
    assert texts(journal) == [f"the spool in {root} cannot be cleared: Input/output error"]
    assert journal.append(records(0, 1), None) is not None
    journal.close(None)


def test_the_bound_is_told_once_per_episode(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    journal = make(root, max_bytes=16_000, sinks=frozenset({"redis"}))
    for turn in range(100):
        journal.append(records(turn * 10, 10), None)  # 300 bytes
        journal.maintain(None)
    folder = only_folder(root)
    sizes = [segment_path(folder, number).stat().st_size for number in segment_numbers(folder)]
    assert sum(sizes) <= 16_000
    left = len(read_batch(folder, START, most_lines=10_000).lines)
    assert journal.dropped == 1000 - left > 0
    assert [text[:43] for text in texts(journal)] == ["the spool has reached SPOOL_MAX_BYTES, the "]
    batch = read_batch(folder, START, most_lines=10_000)
    write_position(folder, "redis", batch.position)
    journal.maintain(None)
    journal.append(records(0, 1), None)
    journal.maintain(None)
    assert "within SPOOL_MAX_BYTES again" in texts(journal)[-1]
    journal.close(None)


def test_the_spool_is_for_nobody_else_s_eyes(root: Path) -> None:
    """Events hold addresses of clients."""
    old = os.umask(0o022)
    try:
        journal = make(root)
        position = journal.append(records(0, 1), None)
        journal.maintain(position)
        write_position(only_folder(root), "redis", START)
    finally:
        os.umask(old)
    paths = [root, *root.rglob("*")]
    assert {path.name[-8:] for path in paths} >= {"position", "intents", "lock", "nks.json"}
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    journal.close(None)
