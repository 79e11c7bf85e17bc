"""The JSON-lines file: rotation by several writers, full disks, files that are moved away."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.events.sinks import jsonl
from proxy.events.sinks.jsonl import JsonLinesSink

BATCH = [b'{"n":1}\n', b'{"n":2}\n']
NEXT = [b'{"n":3}\n']


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "events.jsonl"


def make(path: Path, max_bytes: int = 1_000_000, backups: int = 3) -> JsonLinesSink:
    return JsonLinesSink(path, max_bytes=max_bytes, backups=backups)


def files(path: Path) -> list[Path]:
    """The file and its backups, newest first."""
    found = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, 2000))]
    return [file for file in found if file.exists()]


def read(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_bytes().splitlines()]


def test_lines_are_appended(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"n":0}\n')
    sink = make(path)
    sink.write(BATCH)
    sink.write(NEXT)
    sink.close()
    sink.close()
    assert read(path) == [0, 1, 2, 3]


def test_only_the_owner_may_read_the_file(path: Path) -> None:
    make(path).write(BATCH)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_a_write_after_close_opens_the_file_again(path: Path) -> None:
    sink = make(path)
    sink.write(BATCH)
    sink.close()
    sink.write(NEXT)
    assert read(path) == [1, 2, 3]


def test_rotation_keeps_the_configured_number_of_files(path: Path) -> None:
    sink = make(path, max_bytes=7, backups=2)
    for number in range(5):
        sink.write([b'{"n":%d}\n' % number])
    assert [read(file) for file in files(path)] == [[4], [3]]
    sink.write([b"{}\n"])  # below the limit: stays
    assert [file.name for file in files(path)] == [path.name, f"{path.name}.1", f"{path.name}.2"]


def test_without_backups_a_full_file_is_deleted(path: Path) -> None:
    sink = make(path, max_bytes=7, backups=0)
    sink.write(BATCH)
    assert files(path) == []
    sink.write([b"{}\n"])
    assert path.read_bytes() == b"{}\n"


@pytest.mark.parametrize("new_file", [False, True])
def test_a_file_that_was_moved_away_is_created_again(path: Path, new_file: bool) -> None:
    sink = make(path)
    sink.write(BATCH)
    moved = path.rename(path.with_name("moved"))
    if new_file:  # logrotate's `create`
        path.touch()
    sink.write(NEXT)
    assert (read(moved), read(path)) == ([1, 2], [3])


def test_a_deleted_folder_is_created_again(path: Path) -> None:
    sink = make(path)
    sink.write(BATCH)
    path.unlink()
    path.parent.rmdir()
    sink.write(NEXT)
    assert read(path) == [3]


def test_a_truncated_file_is_appended_to(path: Path) -> None:
    sink = make(path)
    sink.write(BATCH)
    os.truncate(path, 0)  # logrotate's `copytruncate`
    sink.write(NEXT)
    assert read(path) == [3]


class FullDisk:
    """``os.write`` that writes ``room`` bytes and then raises."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.write = os.write

    def __call__(self, descriptor: int, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.write(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 8, 12])
def test_a_full_disk_has_all_of_a_batch_or_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    sink = make(path)
    sink.write(NEXT)
    with monkeypatch.context() as patched:
        patched.setattr(jsonl.os, "write", FullDisk(room))
        with pytest.raises(OSError, match="No space left"):
            sink.write(BATCH)
        assert read(path) == [3]
    sink.write(BATCH)  # the same batch again
    assert read(path) == [3, 1, 2]


def test_a_batch_written_in_parts_is_written_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Callable[[int, Any], int] = os.write
    monkeypatch.setattr(jsonl.os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    make(path).write(BATCH)
    assert read(path) == [1, 2]


def test_a_line_torn_by_a_killed_writer_damages_no_other(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"n":0}\n{"n":')
    make(path).write(BATCH)
    assert path.read_bytes().splitlines(keepends=True) == [b'{"n":0}\n', b'{"n":\n', *BATCH]


def test_a_failed_rotation_does_not_repeat_the_batch(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = make(path, max_bytes=7)

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", refuse)
        sink.write(BATCH)
        sink.write(NEXT)
    assert read(path) == [1, 2, 3]
    assert len(caplog.records) == 1
    assert "cannot be rotated: [Errno 13] Permission denied" in caplog.text
    sink.write(NEXT)
    assert [read(file) for file in files(path)] == [[1, 2, 3, 3]]
    assert not path.exists()


def test_a_file_that_cannot_be_opened_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        make(tmp_path).write(BATCH)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|directory"):
        make(tmp_path / "file" / "events.jsonl").write(BATCH)
    with pytest.raises(OSError, match="directory"):
        make(tmp_path).write(BATCH)


def test_a_pipe_or_a_device_can_be_the_file() -> None:
    sink = make(Path("/dev/null"))
    sink.write(BATCH)
    sink.write(BATCH)
    sink.close()
