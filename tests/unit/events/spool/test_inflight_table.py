"""Slots of a worker that was killed at any moment."""

import json
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.events.spool import inflight_table as intents_module
from proxy.events.spool.inflight_table import NO_SLOT, InFlightTable, leftover_records
from proxy.events.spool.retention import INFLIGHT_TABLE
from proxy.events.spool.segment import decode_record, encode_record
from tests.support.event_samples import event, intent
from tests.support.paths import ROOT


def left(folder: Path) -> list[dict[str, Any]]:
    records, unreadable = leftover_records(folder)
    assert unreadable == 0
    return [json.loads(decode_record(record) or b"") for record in records]


def test_an_intent_becomes_an_event_with_outcome_unknown(tmp_path: Path) -> None:
    slots = InFlightTable.create(tmp_path, 4)
    slots.reserve(intent("a"))
    (found,) = left(tmp_path)
    assert found == {
        "event_id": "a".rjust(32, "0"),
        "timestamp": "2026-05-20T00:03:00.123Z",
        "request_id": "a",
        "project_id": "p1",
        "token_id": "t1",
        "token": "sk-JHjW...fQIZ",
        "endpoint": "/v1/chat/completions",
        "method": "POST",
        "status_code": None,
        "outcome": "unknown",
        "error_code": None,
        "stream": None,
        "duration_ms": None,
        "upstream_ms": None,
        "ttfb_ms": None,
        "bytes_in": None,
        "bytes_out": None,
        "client_ip": "::1",
        "usage_source": "none",
        "metadata": {},
        "provider": None,
    }


def test_the_event_replaces_its_intent_until_the_slot_is_released(tmp_path: Path) -> None:
    slots = InFlightTable.create(tmp_path, 4)
    first, second = slots.reserve(intent("a")), slots.reserve(intent("b"))
    slots.finish(first, encode_record(event("a").line()))
    assert [(found["request_id"], found["outcome"]) for found in left(tmp_path)] == [
        ("b", "unknown"),
        ("a", "completed"),
    ]
    slots.release(first)
    assert [found["request_id"] for found in left(tmp_path)] == ["b"]
    slots.release(second)
    assert (left(tmp_path), slots.open) == ([], 0)


def test_a_request_without_a_free_slot_is_counted(tmp_path: Path) -> None:
    slots = InFlightTable.create(tmp_path, 2)
    taken = [slots.reserve(intent(str(number))) for number in range(3)]
    assert taken[2] == NO_SLOT
    assert (slots.open, slots.missed) == (2, 1)
    slots.release(taken[0])
    assert slots.reserve(intent("later")) == taken[0], "the one that was used last"
    assert {found["request_id"] for found in left(tmp_path)} == {"later", "1"}


@pytest.mark.parametrize(("size", "outcome"), [(1280, "completed"), (1281, "unknown")])
def test_an_event_that_is_too_large_leaves_its_intent(
    tmp_path: Path, size: int, outcome: str
) -> None:
    slots = InFlightTable.create(tmp_path, 2)
    shortest = len(encode_record(event("a", metadata={"model": ""}).line()))
    line = event("a", metadata={"model": "m" * (size - shortest)}).line()
    slot = slots.reserve(intent("a"))
    slots.reserve(intent("next"))
    slots.finish(slot, encode_record(line))
    assert {found["request_id"]: found["outcome"] for found in left(tmp_path)} == {
        "a": outcome,
        "next": "unknown",
    }


def test_an_intent_of_any_length_fits_its_slot(tmp_path: Path) -> None:
    slots = InFlightTable.create(tmp_path, 4)
    slots.reserve(intent("r" * 128, "/v1/" + "ÿ" * 1020, "M" * 8000))
    slots.reserve(intent("r" * 128, '/v1/"' + "\\" * 1020, "\\" * 8000))
    assert slots.missed == 0
    for found, start in zip(left(tmp_path), ('/v1/"\\', "/v1/ÿÿ"), strict=True):
        assert found["endpoint"].startswith(start)
        assert len(found["endpoint"]) == 120


class Dying:
    """Memory in which the process is killed after a number of bytes."""

    def __init__(self, memory: mmap.mmap, left: int) -> None:
        self.memory, self.left = memory, left

    def __len__(self) -> int:
        return len(self.memory)

    def __setitem__(self, where: Any, data: Any) -> None:
        if isinstance(where, int):
            where, data = slice(where, where + 1), bytes([data])
        data = data[: self.left]
        self.memory[where.start : where.start + len(data)] = data
        self.left -= len(data)


def test_a_kill_at_each_byte_leaves_no_false_record(tmp_path: Path) -> None:
    """A slot is used a second time: at no moment does it have a wrong record."""
    begun, finished = intent("new"), encode_record(event("new").line())
    steps = len(begun) + 1 + len(finished) + 1 + 1
    seen: list[str] = []
    for written in range(steps + 1):
        folder = tmp_path / str(written)
        folder.mkdir()
        slots = InFlightTable.create(folder, 1)
        slot = slots.reserve(intent("old-and-longer", "/v1/" + "x" * 100))
        slots.finish(slot, encode_record(event("old", endpoint="/v1/" + "x" * 200).line()))
        slots.release(slot)
        slots._memory = Dying(slots._memory, written)  # type: ignore[assignment]
        slots.reserve(begun)
        slots.finish(slot, finished)
        slots.release(slot)
        found = [f"{one['request_id']} {one['outcome']}" for one in left(folder)]
        seen += found or ["nothing"]
    expected = ["nothing"] * (len(begun) + 1)
    expected += ["new unknown"] * (len(finished) + 1)
    assert seen == [*expected, "new completed", "nothing"]


@given(st.binary(min_size=1, max_size=2048), st.integers(0, 2047))
def test_damaged_slots_are_never_read_as_events(change: bytes, at: int) -> None:
    folder = Path(f"/dev/shm/test-inflight-{os.getpid()}")
    folder.mkdir(exist_ok=True)
    try:
        slots = InFlightTable.create(folder, 1)
        event_line = event("a", event_id="e" * 32).line()
        slots.finish(slots.reserve(intent("a")), encode_record(event_line))
        with (folder / INFLIGHT_TABLE).open("r+b") as file:
            file.seek(at)
            file.write(change[: 2048 - at])
        records, unreadable = leftover_records(folder)
        assert len(records) + unreadable <= 1
        assert all(
            record in (encode_record(event_line), *records_of_intent()) for record in records
        )
    finally:
        (folder / INFLIGHT_TABLE).unlink()
        folder.rmdir()


def records_of_intent() -> list[bytes]:
    return [encode_record(intents_module._unknown(decode_record(intent("a")) or b""))]


def test_an_event_may_have_a_slot_without_an_intent(tmp_path: Path) -> None:
    slots = InFlightTable.create(tmp_path, 1)
    slots.release(slots.reserve(intent("before")))
    held = slots.reserve_finished(encode_record(event("held").line()))
    assert [one["request_id"] for one in left(tmp_path)] == ["held"]
    assert slots.reserve_finished(encode_record(event("more").line())) == NO_SLOT
    with (tmp_path / INFLIGHT_TABLE).open("r+b") as file:
        file.seek(800)
        file.write(b"damage")
    assert leftover_records(tmp_path) == ([], 1), "never that of who was here before"
    slots.release(held)
    assert (
        slots.reserve_finished(encode_record(event("x", metadata={"model": "m" * 2000}).line()))
        == NO_SLOT
    )


def test_a_full_disk_is_noticed_before_any_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        InFlightTable.create(tmp_path, 4)
    assert os.listdir(tmp_path) == []


def test_all_blocks_are_reserved_at_the_start(tmp_path: Path) -> None:
    InFlightTable.create(tmp_path, 100)
    found = (tmp_path / INFLIGHT_TABLE).stat()
    assert found.st_size == 100 * 2048
    assert found.st_blocks * 512 >= found.st_size


def test_close_removes_a_table_without_open_slots(tmp_path: Path) -> None:
    slots = InFlightTable.create(tmp_path, 4)
    slot = slots.reserve(intent("a"))
    slots.close()
    assert len(left(tmp_path)) == 1
    slots.release(slot)
    slots.close()
    assert os.listdir(tmp_path) == []
    assert leftover_records(tmp_path) == ([], 0)


KILLED = """
import sys, time
from pathlib import Path
from proxy.events.spool.inflight_table import InFlightTable
from proxy.events.spool.segment import encode_record
from tests.support.event_samples import event, intent
slots = InFlightTable.create(Path(sys.argv[1]), 100)
for number in range(50):
    slot = slots.reserve(intent(str(number)))
    if number % 2:
        slots.finish(slot, encode_record(event(str(number)).line()))
print("ready", flush=True)
time.sleep(60)
"""


def test_slots_of_a_killed_process_are_readable(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.kill(process.pid, signal.SIGKILL)
    found = {int(one["request_id"]): one["outcome"] for one in left(tmp_path)}
    assert found == {n: "completed" if n % 2 else "unknown" for n in range(50)}


@pytest.mark.parametrize(
    "content", [b'["id",1.5,"r"]', b"7", b'{"a":1}', b"[1,null,3,4,5,6,7,8,9]"]
)
def test_an_intent_of_another_version_is_counted(tmp_path: Path, content: bytes) -> None:
    slots = InFlightTable.create(tmp_path, 4)
    slots.reserve(encode_record(content + b"\n"))
    slots.reserve(intent("a"))
    records, unreadable = leftover_records(tmp_path)
    assert (len(records), unreadable) == (1, 1)
