"""Reading segments: torn at each byte, damaged anywhere, being written, or removed."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.events.spool.lock import acquire
from proxy.events.spool.offsets import START, Offset
from proxy.events.spool.segment import (
    encode_record,
    pending_bytes,
    read_batch,
    segment_numbers,
    segment_path,
    segment_size,
)

LINES = [b'{"n":1}\n', b'{"n":22}\n', b'{"n":333}\n']
RECORDS = [encode_record(line) for line in LINES]
ENDS = [sum(map(len, RECORDS[: number + 1])) for number in range(3)]


def put(folder: Path, number: int, data: bytes | Sequence[bytes]) -> None:
    segment_path(folder, number).write_bytes(data if isinstance(data, bytes) else b"".join(data))


def test_a_batch_has_lines_and_the_offset_behind_them(tmp_path: Path) -> None:
    put(tmp_path, 5, RECORDS)
    batch = read_batch(tmp_path, START)
    assert (batch.lines, batch.offset, batch.damaged) == (LINES, Offset(5, ENDS[2]), 0)
    again = read_batch(tmp_path, batch.offset)
    assert (again.lines, again.offset, again.damaged) == ([], batch.offset, 0)


def test_reading_starts_at_the_given_offset(tmp_path: Path) -> None:
    put(tmp_path, 5, RECORDS)
    for number, end in enumerate(ENDS, 1):
        assert read_batch(tmp_path, Offset(5, end)).lines == LINES[number:]


def test_a_batch_is_bounded_in_lines_and_bytes(tmp_path: Path) -> None:
    put(tmp_path, 5, RECORDS * 2)
    batch = read_batch(tmp_path, START, max_lines=2)
    assert (batch.lines, batch.offset) == (LINES[:2], Offset(5, ENDS[1]))
    batch = read_batch(tmp_path, START, max_bytes=ENDS[1] + 3)
    assert (batch.lines, batch.offset) == (LINES[:2], Offset(5, ENDS[1]))
    # A record larger than the limit is still returned, or reading would never continue.
    assert read_batch(tmp_path, START, max_bytes=3).lines == LINES[:1]


def test_a_batch_spans_segments(tmp_path: Path) -> None:
    put(tmp_path, 5, RECORDS[:1])
    put(tmp_path, 7, b"")
    put(tmp_path, 8, RECORDS[1:2])
    put(tmp_path, 9, b"")
    put(tmp_path, 10, RECORDS[2:])
    batch = read_batch(tmp_path, START)
    assert (batch.lines, batch.offset) == (LINES, Offset(10, len(RECORDS[2])))
    offset, lines = START, []
    for _ in range(3):
        batch = read_batch(tmp_path, offset, max_lines=1)
        offset, lines = batch.offset, lines + batch.lines
    assert (lines, offset) == (LINES, Offset(10, len(RECORDS[2])))


def test_a_missing_segment_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, 8, RECORDS)
    for offset in (Offset(5, 100), Offset(7, 0), START):
        assert read_batch(tmp_path, offset).lines == LINES


def test_an_offset_behind_the_end_continues_with_the_next_segment(tmp_path: Path) -> None:
    """A power cut may take the end of a segment that was delivered already."""
    put(tmp_path, 5, RECORDS[:1])
    put(tmp_path, 6, RECORDS[1:])
    assert read_batch(tmp_path, Offset(5, 10_000)).lines == LINES[1:]


def test_a_torn_tail_counts_only_once_the_writer_is_gone(
    tmp_path: Path,
) -> None:
    whole = b"".join(RECORDS)
    for length in range(len(whole) + 1):
        put(tmp_path, 5, whole[:length])
        complete = sum(end <= length for end in ENDS)
        torn = length not in (0, *ENDS)
        batch = read_batch(tmp_path, START)
        assert (batch.lines, batch.damaged) == (LINES[:complete], int(torn)), length
        assert batch.offset == Offset(5, length)
        # The same while the writer runs and writes a later segment.
        put(tmp_path, 6, RECORDS[:1])
        ownership = acquire(tmp_path)
        assert ownership is not None
        batch = read_batch(tmp_path, START)
        assert (batch.lines, batch.damaged) == ([*LINES[:complete], LINES[0]], int(torn)), length
        ownership.release()
        segment_path(tmp_path, 6).unlink()


def test_a_record_being_written_is_not_torn(tmp_path: Path) -> None:
    whole = b"".join(RECORDS)
    ownership = acquire(tmp_path)
    offset, lines = START, []
    for length in range(len(whole) + 1):
        put(tmp_path, 5, whole[:length])
        batch = read_batch(tmp_path, offset)
        assert batch.damaged == 0
        offset = batch.offset
        lines += batch.lines
    assert lines == LINES
    assert ownership is not None
    put(tmp_path, 5, whole[:-1])
    assert read_batch(tmp_path, START).damaged == 0
    assert (
        read_batch(tmp_path, START, abandoned=True).damaged == 1
    )  # its owner writes nothing to it


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"") + b"\n"), max_size=8),
    st.integers(0, 400),
    st.binary(min_size=1, max_size=10),
)
def test_damage_affects_only_the_record_that_it_touches(
    lines: list[bytes], at: int, change: bytes
) -> None:
    records = [encode_record(line) for line in lines]
    whole = bytearray(b"".join(records))
    whole[at : at + len(change)] = change[: max(0, len(whole) - at)]
    with tempfile.TemporaryDirectory() as name:
        put(Path(name), 1, bytes(whole))
        batch = read_batch(Path(name), START)
    expected, start, hurt = [], 0, 0
    for line, record in zip(lines, records, strict=True):
        end = start + len(record)
        if whole[start:end] == record and whole[start - 1 : start] in (b"", b"\n"):
            expected.append(line)
        else:
            hurt += 1
        start = end
    assert batch.lines == expected
    assert bool(batch.damaged) == bool(hurt)
    assert batch.offset == (Offset(1, len(whole)))


def test_garbage_without_line_ends_counts_as_one_damaged_record(tmp_path: Path) -> None:
    put(tmp_path, 5, RECORDS[0] + b"\0\r" * 5000 + b"\n" + RECORDS[1])
    batch = read_batch(tmp_path, START, max_bytes=100)
    offset, lines, damaged = batch.offset, batch.lines, batch.damaged
    while offset.byte < segment_size(tmp_path, 5):
        batch = read_batch(tmp_path, offset, max_bytes=100)
        offset, lines, damaged = batch.offset, lines + batch.lines, damaged + batch.damaged
    assert (lines, damaged) == (LINES[:2], 1)


def test_a_removed_folder_is_empty(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    assert segment_numbers(gone) == []
    assert read_batch(gone, Offset(3, 4)).offset == Offset(3, 4)
    assert pending_bytes(gone, START) == 0


def test_a_segment_unlinked_during_a_read_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 6, RECORDS)
    real, calls = os.listdir, [0]

    def listdir(folder: Path) -> list[str]:
        calls[0] += 1
        return ["0000000000000005.log", *real(folder)] if calls[0] == 1 else real(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    assert read_batch(tmp_path, START).lines == LINES


def test_pending_bytes(tmp_path: Path) -> None:
    put(tmp_path, 5, RECORDS)
    put(tmp_path, 6, RECORDS[:1])
    (tmp_path / "inflight").write_bytes(b"x" * 100)
    assert segment_numbers(tmp_path) == [5, 6]
    assert pending_bytes(tmp_path, START) == ENDS[2] + ENDS[0]
    assert pending_bytes(tmp_path, Offset(5, ENDS[1])) == ENDS[2] - ENDS[1] + ENDS[0]
    assert pending_bytes(tmp_path, Offset(6, ENDS[0])) == 0
    assert pending_bytes(tmp_path, Offset(6, 10_000)) == 0
