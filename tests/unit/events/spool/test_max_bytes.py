"""The spool of all writers stays within its size, and each lost record counts once."""

from pathlib import Path

import pytest

from proxy.events.spool.lock import acquire
from proxy.events.spool.offsets import Offset, write_offset
from proxy.events.spool.retention import Bounded, enforce_max_bytes
from proxy.events.spool.segment import encode_record, segment_numbers, segment_path
from tests.support.event_samples import record

RECORD = encode_record(b"x" * 90 + b"\n")  # 100 bytes
A, B = "00000000000001-1-aaaaaaaaaaaaaaaa", "00000000000002-1-bbbbbbbbbbbbbbbb"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two writers with three segments of ten records each, made in turn."""
    for name, numbers in ((A, (1, 3, 5)), (B, (2, 4, 6))):
        (tmp_path / name).mkdir()
        for number in numbers:
            segment_path(tmp_path / name, number).write_bytes(RECORD * 10)
    return tmp_path


def numbers(root: Path) -> list[int]:
    return sorted(segment_numbers(root / A) + segment_numbers(root / B))


def test_the_oldest_segments_of_all_writers_are_removed(root: Path) -> None:
    assert enforce_max_bytes(root, 6000, ["s"]) == Bounded(6000, 0, 0)
    assert enforce_max_bytes(root, 5999, ["s"]) == Bounded(5000, 1, 10)
    assert numbers(root) == [2, 3, 4, 5, 6]
    assert enforce_max_bytes(root, 3500, ["s"]) == Bounded(3000, 2, 20)
    assert numbers(root) == [4, 5, 6]


def test_only_records_that_a_sink_lacks_count_as_lost(root: Path) -> None:
    write_offset(root / A, "fast", Offset(5, 1000))
    write_offset(root / A, "slow", Offset(1, 700))
    write_offset(root / B, "fast", Offset(6, 0))
    write_offset(root / B, "slow", Offset(4, 200))
    assert enforce_max_bytes(root, 2500, ["fast", "slow"]).lost == 3 + 0 + 10 + 8
    assert enforce_max_bytes(root, 0, []) == Bounded(0, 2, 0)


def test_the_live_segment_stays(root: Path) -> None:
    ownership = acquire(root / A)
    assert ownership is not None
    assert enforce_max_bytes(root, 0, ["s"]) == Bounded(1000, 5, 50)
    assert numbers(root) == [5]
    ownership.release()
    assert enforce_max_bytes(root, 0, ["s"]) == Bounded(0, 1, 10)


def test_a_missing_spool_has_no_bytes(tmp_path: Path) -> None:
    assert enforce_max_bytes(tmp_path / "spool", 1, ["s"]) == Bounded(0, 0, 0)


def test_unreadable_folders_and_segments_stop_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = root / "00000000000000-1-cccccccccccccccc"
    bad.mkdir()
    (bad / "lock").symlink_to("lock")  # ELOOP for every process
    segment_path(root / A, 1).unlink()
    segment_path(root / A, 1).mkdir()
    assert enforce_max_bytes(root, 3000, ["s"]).removed >= 2
    assert numbers(root)[0] == 1
    assert 2 not in numbers(root)


def test_refusals_of_unknown_tokens_are_removed_first(root: Path) -> None:
    """Even newer ones, and also those within the oldest segments."""
    refused = record("r", outcome="rejected")
    paid = record("p", project_id="p", token_id="t", token="sk-a...b")
    for number in (1, 3):
        segment_path(root / A, number).write_bytes((refused + paid) * 10)
    segment_path(root / B, 4).write_bytes(refused * 20)
    whole = sum(path.stat().st_size for path in root.glob("*/*.log"))
    bounded = enforce_max_bytes(root, whole - 25 * len(refused), ["s"])
    assert bounded == Bounded(whole - 40 * len(refused), 0, 0, 40)
    assert segment_numbers(root / A) == [2, 4, 5]
    assert enforce_max_bytes(root, bounded.kept - 1, ["s"]).lost == 10  # then the oldest
