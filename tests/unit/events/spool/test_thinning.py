"""Removing refusals from a segment, and when a segment is left alone."""

import os
from pathlib import Path

import pytest

from proxy.events.spool import thinning
from proxy.events.spool.offsets import START, Offset, write_offset
from proxy.events.spool.segment import encode_record, read_batch, segment_numbers, segment_path
from proxy.events.spool.thinning import is_refusal, thin
from tests.support.event_samples import event, names, record

PAID = {"project_id": "p", "token_id": "t", "token": "sk-a...b"}


def refused(name: str) -> bytes:
    return record(name, outcome="rejected", status_code=401, error_code="invalid_token")


def paid(name: str, **changes: str) -> bytes:
    return record(name, **PAID, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [refused("1"), paid("a"), refused("2"), paid("b", outcome="rejected"), refused("3")]
    segment_path(tmp_path, 10).write_bytes(b"".join(records))
    return tmp_path


def read(folder: Path) -> list[str]:
    return names(read_batch(folder, START).lines)


def test_which_events_count_as_refusals() -> None:
    assert is_refusal(refused("r"))
    assert not is_refusal(paid("r", outcome="rejected"))  # a limit of a known token
    assert not is_refusal(record("r", outcome="client_gone"))
    assert not is_refusal(encode_record(b'{"event":"rejected_summary","count":7}\n'))
    forged = '"project_id":null,"token_id":null,"token":null,"outcome":"rejected",'
    assert not is_refusal(encode_record(event(forged, endpoint=forged, **PAID).line()))


def test_other_events_stay_in_order(folder: Path) -> None:
    before = segment_path(folder, 10).stat().st_size
    freed, gone = thin(folder, 10, ["s"])
    assert gone == 3
    assert read(folder) == ["a", "b"]
    assert segment_numbers(folder) == [11]
    assert freed == before - segment_path(folder, 11).stat().st_size
    assert (segment_path(folder, 11).stat().st_mode & 0o777) == 0o600
    assert thin(folder, 11, ["s"]) == (0, 0)


def test_a_segment_of_refusals_alone_is_removed(folder: Path) -> None:
    segment_path(folder, 20).write_bytes(refused("x") * 3)
    assert thin(folder, 20, ["s"])[1] == 3
    assert segment_numbers(folder) == [10]


def test_a_segment_that_a_sink_has_partly_read_is_left_alone(folder: Path) -> None:
    write_offset(folder, "fast", Offset(10, 5))
    assert thin(folder, 10, ["slow", "fast"]) == (0, 0)
    assert read(folder) == ["1", "a", "2", "b", "3"]
    assert thin(folder, 10, ["slow"])[1] == 3


def test_a_used_segment_number_is_not_used_again(folder: Path) -> None:
    segment_path(folder, 11).write_bytes(paid("c"))
    assert thin(folder, 10, ["s"]) == (0, 0)
    assert read(folder) == ["1", "a", "2", "b", "3", "c"]


def test_a_reader_of_the_old_segment_misses_nothing(folder: Path) -> None:
    first = read_batch(folder, START, max_lines=2)
    assert names(first.lines) == ["1", "a"]
    thin(folder, 10, ["s"])
    rest = read_batch(folder, first.offset)
    assert names(rest.lines) == ["a", "b"]  # "a" once more: at least once


def test_a_torn_tail_stays_torn(folder: Path) -> None:
    with segment_path(folder, 10).open("ab") as file:
        file.write(refused("torn")[:-20])
    thin(folder, 10, ["s"])
    batch = read_batch(folder, START)
    assert (names(batch.lines), batch.damaged) == (["a", "b"], 1)


def test_a_full_disk_leaves_the_segment_unchanged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(thinning.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        thin(folder, 10, ["s"])
    assert read(folder) == ["1", "a", "2", "b", "3"]
    assert os.listdir(folder) == [segment_path(folder, 10).name]
