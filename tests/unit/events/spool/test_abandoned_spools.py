"""Spools of ended workers: their slots become events, and the local sinks get all of them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.events.spool.inflight_table import InFlightTable
from proxy.events.spool.lock import acquire
from proxy.events.spool.offsets import START, read_offset, write_offset
from proxy.events.spool.recovery import AbandonedSpool, abandoned_spools
from proxy.events.spool.retention import INFLIGHT_TABLE, LOCAL, writer_folders
from proxy.events.spool.segment import read_batch, segment_numbers, segment_path
from proxy.events.spool.writer import NotSpooled, SegmentWriter
from tests.support.event_samples import intent, names, record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Events 0 to 3 are spooled, and the local sink has 0. Request 4 has ended, 5 has not."""
    writer = SegmentWriter.create(tmp_path)
    first = writer.append([record("0")])
    writer.append([record(str(number)) for number in range(1, 4)])
    write_offset(writer.folder, LOCAL, first)
    slots = InFlightTable.create(writer.folder, 10)
    for name in "345":
        slot = slots.reserve(intent(name))
        if name != "5":
            slots.finish(slot, record(name))
    writer.close()
    writer.release()
    return writer.folder


def take(root: Path) -> AbandonedSpool:
    (spool,) = abandoned_spools(root)
    return spool


def read_all(spool: AbandonedSpool) -> list[bytes]:
    lines = []
    while (batch := spool.read()).lines:
        spool.accepted(batch)
        lines += batch.lines
    spool.accepted(batch)
    return lines


def test_the_local_sink_gets_all_lines_that_it_lacks(folder: Path) -> None:
    spool = take(folder.parent)
    spool.recover()
    assert (spool.recovered, spool.unreadable) == (2, 0)
    lines = read_all(spool)
    assert sorted(names(lines)) == ["1", "2", "3", "4", "5"]
    outcomes = {json.loads(line)["request_id"]: json.loads(line)["outcome"] for line in lines}
    assert outcomes["4"] == "completed"
    assert outcomes["5"] == "unknown"
    spool.leave({LOCAL})
    assert writer_folders(folder.parent) == []


def test_a_folder_is_kept_for_a_remote_sink(folder: Path) -> None:
    spool = take(folder.parent)
    spool.recover()
    read_all(spool)
    spool.leave({LOCAL, "redis"})
    batch = read_batch(folder, read_offset(folder, "redis"))
    assert sorted(names(batch.lines)) == ["0", "1", "2", "3", "4", "5"]
    assert not (folder / INFLIGHT_TABLE).exists()
    write_offset(folder, "redis", batch.offset)
    spool = take(folder.parent)
    spool.recover()
    assert (spool.recovered, read_all(spool)) == (0, [])
    spool.leave({LOCAL, "redis"})
    assert not folder.exists()


def test_a_folder_is_kept_while_the_sinks_are_unknown(folder: Path) -> None:
    spool = take(folder.parent)
    spool.recover()
    spool.leave(None)
    assert len(read_batch(folder, START).lines) == 6


def test_a_folder_has_one_owner_at_a_time(folder: Path) -> None:
    living = SegmentWriter.create(folder.parent)
    spool = take(folder.parent)
    assert spool.folder == folder
    assert list(abandoned_spools(folder.parent)) == []
    spool.release()
    again = take(folder.parent)
    again.release()
    living.release()


def test_a_kill_between_spooling_the_slots_and_removing_them_repeats_nothing(folder: Path) -> None:
    slots = (folder / INFLIGHT_TABLE).read_bytes()
    for _ in range(2):
        spool = take(folder.parent)
        spool.recover()
        spool.release()
        (folder / INFLIGHT_TABLE).write_bytes(slots)
    assert sorted(names(read_batch(folder, START).lines)) == ["0", "1", "2", "3", "4", "5"]


def test_a_full_disk_keeps_the_slots(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    spool = take(folder.parent)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(NotSpooled):
            spool.recover()
    spool.release()
    assert (folder / INFLIGHT_TABLE).exists()
    spool = take(folder.parent)
    spool.recover()
    assert spool.recovered == 2
    spool.release()


def test_a_torn_tail_is_skipped_and_counted(folder: Path) -> None:
    (number,) = segment_numbers(folder)
    with segment_path(folder, number).open("ab") as file:
        file.write(record("torn")[:-5])
    (folder / INFLIGHT_TABLE).unlink()
    spool = take(folder.parent)
    spool.recover()
    batch = spool.read()
    assert (names(batch.lines), batch.damaged) == (["1", "2", "3"], 1)
    spool.accepted(batch)
    spool.leave({LOCAL})
    assert not folder.exists()


def test_a_record_torn_within_a_batch_is_recovered_from_its_slot(folder: Path) -> None:
    """A kill can end a write at any page: the torn record still has its slot."""
    (number,) = segment_numbers(folder)
    with segment_path(folder, number).open("ab") as file:
        file.write(record("4")[:-5])
    spool = take(folder.parent)
    spool.recover()
    spool.release()
    assert sorted(names(read_batch(folder, START).lines)) == ["0", "1", "2", "3", "4", "5"]


def test_unreadable_slots_are_counted(folder: Path) -> None:
    with (folder / INFLIGHT_TABLE).open("r+b") as file:
        for slot in (7, 8, 9):
            file.seek(slot * 2048)
            file.write(b"\x01\0\0\0\0\0\0\0damage\n")
    spool = take(folder.parent)
    spool.recover()
    assert spool.unreadable >= 1
    spool.release()


TOKEN_ID = "00000000-0000-7000-8000-000000000001"


def test_the_tokens_that_a_killed_worker_served_last_are_reported(folder: Path) -> None:
    ownership = acquire(folder)
    assert ownership is not None
    writer = SegmentWriter(folder, ownership)
    writer.append([record("6", token_id=TOKEN_ID), record("7", token_id=TOKEN_ID)])
    writer.close()
    writer.release()
    spool = take(folder.parent)
    assert spool.token_ids == frozenset()
    spool.recover()
    assert spool.token_ids == {TOKEN_ID}
    spool.release()


def test_a_worker_that_ended_in_order_reports_no_tokens(folder: Path) -> None:
    (folder / INFLIGHT_TABLE).unlink()
    spool = take(folder.parent)
    spool.recover()
    assert spool.token_ids == frozenset()
    spool.release()
