"""The segment writer: whole batches, full disks, closed segments, and syncs."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.events.spool.lock import is_owned
from proxy.events.spool.offsets import START, Offset, write_offset
from proxy.events.spool.retention import reclaim, tidy
from proxy.events.spool.segment import (
    encode_record,
    read_batch,
    segment_numbers,
    segment_path,
    segment_size,
)
from proxy.events.spool.writer import NotSpooled, SegmentWriter
from tests.support.paths import ROOT


def records(first: int, count: int, size: int = 20) -> list[bytes]:
    return [encode_record(b"%0*d\n" % (size, number)) for number in range(first, first + count)]


def numbers(folder: Path) -> list[int]:
    return [int(line) for line in read_batch(folder, START, max_lines=10**6).lines]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SegmentWriter]:
    made = SegmentWriter.create(tmp_path / "spool", segment_bytes=1000)
    yield made
    made.close()
    made.release()


def test_appended_records_are_visible_to_others_at_once(writer: SegmentWriter) -> None:
    first = writer.append(records(0, 3))
    assert numbers(writer.folder) == [0, 1, 2]
    second = writer.append(records(3, 2))
    batch = read_batch(writer.folder, first)
    assert ([int(line) for line in batch.lines], batch.offset) == ([3, 4], second)
    assert is_owned(writer.folder)
    assert writer.live == second.segment


def test_segments_are_closed_by_size_and_age(writer: SegmentWriter) -> None:
    for batch in range(10):
        writer.append(records(batch * 10, 10))
    assert numbers(writer.folder) == list(range(100))
    found = segment_numbers(writer.folder)
    assert len(found) == 3
    assert all(1000 <= segment_size(writer.folder, number) < 1500 for number in found[:-1])
    writer.roll(older_than=3600)
    assert writer.live == found[-1]
    writer.roll(older_than=0)
    assert writer.live is None
    writer.roll(older_than=0)
    assert segment_numbers(writer.folder) == found, "the next is made when it is needed"
    writer.append(records(100, 1))
    assert len(segment_numbers(writer.folder)) == 4
    assert numbers(writer.folder) == list(range(101))


def test_segment_numbers_grow_whatever_the_clock_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter.create(tmp_path)
    write_offset(writer.folder, "redis", Offset(4 * 10**12, 7))
    later = SegmentWriter(writer.folder, writer._ownership)
    assert later.append(records(0, 1)).segment == 4 * 10**12 + 1
    later.roll(0)
    monkeypatch.setattr("time.time_ns", lambda: 5)
    assert later.append(records(1, 1)).segment == 4 * 10**12 + 2


class Disk:
    """``os.write`` onto a disk with ``room`` bytes left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._write(descriptor, data[: self.room])
        self.room -= taken
        return taken


def test_a_disk_that_fills_at_each_byte_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = records(0, 3)
    size = len(batch[0])
    disk = Disk(monkeypatch, 0)
    for room in range(3 * size):
        disk.room = 1000
        writer = SegmentWriter.create(tmp_path)
        disk.room = room
        with pytest.raises(NotSpooled, match="No space left") as caught:
            writer.append(batch)
        assert caught.value.accepted == room // size
        assert numbers(writer.folder) == list(range(room // size))
        disk.room = 1000
        offset = writer.append(records(7, 2))
        assert numbers(writer.folder) == [*range(room // size), 7, 8]
        assert offset.byte == segment_size(writer.folder, offset.segment)
        assert len(segment_numbers(writer.folder)) == 1
        writer.close()
        writer.release()


def test_a_tail_that_cannot_be_cut_off_ends_the_segment(
    writer: SegmentWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    disk = Disk(monkeypatch, 50)
    monkeypatch.setattr(os, "ftruncate", refuse)
    with pytest.raises(NotSpooled):
        writer.append(records(0, 3))
    disk.room = 1000
    writer.append(records(3, 1))
    batch = read_batch(writer.folder, START)
    assert ([int(line) for line in batch.lines], batch.damaged) == ([0, 3], 1)


def test_a_removed_folder_is_an_error_of_that_batch(writer: SegmentWriter) -> None:
    writer.folder.rename(writer.folder.with_name("moved"))
    with pytest.raises(NotSpooled) as caught:
        writer.append(records(0, 2))
    assert caught.value.accepted == 0
    writer.folder.with_name("moved").rename(writer.folder)
    writer.append(records(0, 2))
    assert numbers(writer.folder) == [0, 1]


LIMITED = """
import resource, signal, sys
from pathlib import Path
from proxy.events.spool.segment import encode_record
from proxy.events.spool.writer import NotSpooled, SegmentWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
writer = SegmentWriter.create(Path(sys.argv[1]))
try:
    writer.append([encode_record(b"%020d\\n" % number) for number in range(100)])
except NotSpooled as error:
    print(writer.folder, error.accepted)
"""


def test_a_real_file_size_limit_leaves_whole_records(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=30,
        text=True,
    )
    folder, accepted = done.stdout.split()
    assert int(accepted) == 1000 // len(records(0, 1)[0])
    batch = read_batch(Path(folder), START)
    assert (len(batch.lines), batch.damaged) == (int(accepted), 0)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_sync_covers_every_segment_and_their_names(
    writer: SegmentWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer.append(records(0, 50))
    writer.append(records(50, 1))
    writer.sync()
    names = [segment_path(writer.folder, n).name for n in segment_numbers(writer.folder)]
    assert sorted(synced) == sorted([*names, writer.folder.name])
    assert len(names) == 2
    assert synced[-1] == writer.folder.name
    synced.clear()
    writer.sync()
    assert synced == [], "nothing is new"
    writer.append(records(51, 1))
    writer.sync()
    assert synced == names[1:]


def test_a_failed_sync_is_reported_once(
    writer: SegmentWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer.append(records(0, 50))
    writer.append(records(50, 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for _ in range(2):  # the live segment, the closed one
            with pytest.raises(OSError, match="Input/output"):
                writer.sync()
    writer.sync()
    writer.append(records(51, 1))
    writer.sync()
    assert numbers(writer.folder) == list(range(52))


WRITING = """
import sys, time
from pathlib import Path
from proxy.events.spool.segment import encode_record
from proxy.events.spool.segment import segment_numbers
from proxy.events.spool.writer import SegmentWriter
writer = SegmentWriter.create(Path(sys.argv[1]), segment_bytes=50_000)
print(writer.folder, flush=True)
number = 0
while True:
    writer.append([encode_record(b"%020d\\n" % n) for n in range(number, number + 7)])
    number += 7
    # Not far ahead: a slower reader would never reach the end.
    while number % 700 == 0 and len(segment_numbers(writer.folder)) > 5:
        time.sleep(0.001)
"""


def test_readers_see_whole_records_until_the_writer_is_killed(tmp_path: Path) -> None:
    """Another process writes and removes segments: all records in order, none twice, none torn."""
    seen, offset, damaged = [], START, 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().decode().strip())
        while True:
            if len(seen) > 20_000:
                process.kill()
                process.wait(20)
            batch = read_batch(folder, offset, max_lines=777)
            seen += [int(line) for line in batch.lines]
            damaged += batch.damaged
            if process.poll() is not None and batch.offset == offset:
                break
            offset = batch.offset
            write_offset(folder, "redis", offset, durable=False)
            reclaim(folder, ["redis"], live=(segment_numbers(folder) or [0])[-1])
    assert seen == list(range(len(seen)))
    assert damaged <= 1
    assert len(segment_numbers(folder)) <= 2
    tidy(folder, ["redis"])
    assert not folder.exists()


def test_every_writer_has_a_folder_of_its_own(tmp_path: Path) -> None:
    writers = [SegmentWriter.create(tmp_path / "spool") for _ in range(3)]
    assert len({writer.folder for writer in writers}) == 3
    for writer in writers:
        writer.release()
        assert not is_owned(writer.folder)
