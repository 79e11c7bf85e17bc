"""A worker's side of the spool: what it keeps, removes and logs, also when the disk fails."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.events.spool import writer as journal_module
from proxy.events.spool.lock import is_owned
from proxy.events.spool.offsets import START, Offset, read_offset, write_offset
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
    spool_writer = SpoolWriter(SpoolSettings(**settings | changes))
    spool_writer.open()
    return spool_writer


def records(first: int, count: int) -> list[bytes]:
    return [encode_record(b"%020d\n" % number) for number in range(first, first + count)]


def only_folder(root: Path) -> Path:
    (folder,) = writer_folders(root)
    return folder


def texts(spool_writer: SpoolWriter) -> list[str]:
    return [text for _, text in spool_writer.notices]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool"


def test_a_spool_from_open_to_close(root: Path) -> None:
    spool_writer = make(root, sinks=frozenset({LOCAL, "redis"}))
    assert registered_sinks(root) == {LOCAL, "redis"}
    first = spool_writer.append(records(0, 3), None)
    second = spool_writer.append(records(3, 3), first)
    folder = only_folder(root)
    assert read_offset(folder, LOCAL) == first
    assert len(read_batch(folder, START).lines) == 6
    spool_writer.maintain(second)
    assert read_offset(folder, LOCAL) == second
    spool_writer.close(second)
    assert not is_owned(folder)
    assert segment_numbers(folder), "the other sink has not got them"
    assert not spool_writer.notices


def test_a_folder_that_all_sinks_have_read_is_removed(root: Path) -> None:
    spool_writer = make(root)
    offset = spool_writer.append(records(0, 3), None)
    spool_writer.close(offset)
    assert writer_folders(root) == []
    spool_writer.close(offset)


def test_lines_that_the_local_sinks_lack_are_left(root: Path) -> None:
    spool_writer = make(root)
    offset = spool_writer.append(records(0, 3), None)
    assert offset is not None
    spool_writer.append(records(3, 3), offset)
    spool_writer.close(offset)
    folder = only_folder(root)
    assert len(read_batch(folder, read_offset(folder, LOCAL)).lines) == 3


def test_open_slots_keep_the_folder_locked_until_the_process_ends(root: Path) -> None:
    spool_writer = make(root)
    assert spool_writer.inflight_table is not None
    slot = spool_writer.inflight_table.reserve(b"x\n")
    spool_writer.close(None)
    folder = only_folder(root)
    assert is_owned(folder)
    spool_writer.inflight_table.finish(slot, b"y\n")  # still running


def test_segments_are_removed_while_the_writer_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_writer = make(root, sinks=frozenset({LOCAL, "redis"}))
    folder = only_folder(root)
    offset = spool_writer.append(records(0, 3), None)
    assert offset is not None
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 3600)
    spool_writer.maintain(offset)
    assert segment_numbers(folder) == [offset.segment]
    write_offset(folder, "redis", offset)
    spool_writer.maintain(offset)
    assert segment_numbers(folder) == []
    later = spool_writer.append(records(3, 1), offset)
    assert later is not None
    assert later.segment > offset.segment
    spool_writer.maintain(later)
    assert segment_numbers(folder) == [later.segment], "it is being written"
    spool_writer.close(later)


def test_records_are_synced_at_the_interval(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda d: synced.append(os.readlink(f"/proc/self/fd/{d}")))
    each = make(root, fsync_interval=0.0)
    offset = each.append(records(0, 1), None)
    assert offset is not None
    segment = str(segment_path(only_folder(root), offset.segment))
    assert synced.count(segment) == 1
    each.append(records(1, 1), None)
    assert synced.count(segment) == 2
    each.close(None)

    synced.clear()
    now = time.monotonic()
    other = root.with_name("other")
    timed = make(other, fsync_interval=1.0)
    offset = timed.append(records(0, 1), None)
    assert offset is not None
    segment = str(segment_path(only_folder(other), offset.segment))
    monkeypatch.setattr("time.monotonic", lambda: now + 0.5)
    timed.maintain(None)
    assert segment not in synced
    monkeypatch.setattr("time.monotonic", lambda: now + 2)
    timed.maintain(None)
    assert synced.count(segment) == 1
    timed.close(None)


def test_a_full_disk_is_logged_once_and_its_losses_are_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_writer = make(root)
    whole = spool_writer.append(records(0, 1), None)
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
            assert spool_writer.append(records(1, 4), whole) is None
    assert spool_writer.unspooled == 9, "one of each batch had room"
    assert texts(spool_writer) == [
        f"spool {root}: cannot be written: OSError: [Errno 28] No space left on device"
    ]
    offset = spool_writer.append(records(5, 1), whole)
    assert offset is not None
    assert texts(spool_writer)[1:] == [
        f"spool {root}: can be written again, 9 events are not in it"
    ]
    assert len(read_batch(only_folder(root), START).lines) == 1 + 3 + 1
    spool_writer.close(offset)
    assert writer_folders(root) == []


def test_making_the_folder_is_retried(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.parent.mkdir()
    root.write_text("in the way")
    spool_writer = make(root)
    assert spool_writer.append(records(0, 2), None) is None
    spool_writer.maintain(None)
    assert len(spool_writer.notices) == 1
    root.unlink()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)
    spool_writer.maintain(None)
    assert spool_writer.append(records(2, 1), None) is not None
    assert spool_writer.inflight_table is not None
    assert texts(spool_writer)[1:] == [f"spool {root}: can be made again, 2 events are not in it"]
    spool_writer.close(None)


def test_making_the_inflight_table_is_retried(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        spool_writer = make(root)
    assert spool_writer.inflight_table is None
    assert spool_writer.append(records(0, 1), None) is not None, "the spool works without"
    assert len(spool_writer.notices) == 1
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)
    spool_writer.maintain(None)
    assert spool_writer.inflight_table is not None
    assert len(writer_folders(root)) == 1
    spool_writer.close(None)


def test_a_removed_folder_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool_writer = make(root)
    spool_writer.append(records(0, 1), None)
    folder = only_folder(root)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 10)
    spool_writer.maintain(Offset(1, 1))
    assert spool_writer.append(records(1, 1), None) is not None
    assert len(read_batch(only_folder(root), START).lines) == 1
    spool_writer.close(None)


def test_a_folder_that_cannot_be_read_is_logged_and_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_writer = make(root)

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", broken)
        spool_writer.maintain(None)
        spool_writer.maintain(None)
    assert texts(spool_writer) == [
        f"spool {root}: cannot be cleared: OSError: [Errno 5] Input/output error"
    ]
    assert spool_writer.append(records(0, 1), None) is not None
    spool_writer.close(None)


def test_reaching_the_maximum_is_logged_once_per_episode(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 1000)
    spool_writer = make(root, max_bytes=16_000, sinks=frozenset({"redis"}))
    for turn in range(100):
        spool_writer.append(records(turn * 10, 10), None)  # 300 bytes
        spool_writer.maintain(None)
    folder = only_folder(root)
    sizes = [segment_path(folder, number).stat().st_size for number in segment_numbers(folder)]
    assert sum(sizes) <= 16_000
    left = len(read_batch(folder, START, max_lines=10_000).lines)
    assert spool_writer.dropped == 1000 - left > 0
    assert [text[:43] for text in texts(spool_writer)] == [
        "the spool has reached SPOOL_MAX_BYTES, the "
    ]
    batch = read_batch(folder, START, max_lines=10_000)
    write_offset(folder, "redis", batch.offset)
    spool_writer.maintain(None)
    spool_writer.append(records(0, 1), None)
    spool_writer.maintain(None)
    assert "within SPOOL_MAX_BYTES again" in texts(spool_writer)[-1]
    spool_writer.close(None)


def test_only_the_owner_may_read_the_spool(root: Path) -> None:
    """Events hold addresses of clients."""
    old = os.umask(0o022)
    try:
        spool_writer = make(root)
        offset = spool_writer.append(records(0, 1), None)
        spool_writer.maintain(offset)
        write_offset(only_folder(root), "redis", START)
    finally:
        os.umask(old)
    paths = [root, *root.rglob("*")]
    assert {path.name[-8:] for path in paths} >= {"l.offset", "inflight", "lock", "nks.json"}
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    spool_writer.close(None)
