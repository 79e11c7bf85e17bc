"""The count of usage events: whole lines, read once, and a wait that ends without progress."""

import threading
from pathlib import Path

import pytest

from bench import eventlog
from bench.eventlog import EventLog


def test_only_whole_lines_count_and_each_once(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.lines() == 0
    with log.path.open("w") as file:
        file.write("a\nb\nhalf")
        file.flush()
        assert log.lines() == log.lines() == 2
        file.write(" a line\n")
        file.flush()
        assert log.lines() == 3


def test_it_waits_for_lines_that_come_late(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.path.write_text("a\n")
    writer = threading.Timer(0.2, lambda: log.path.write_text("a\nb\nc\n"))
    writer.start()
    assert log.wait(3) == 0
    writer.join()


def test_what_never_comes_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "_NO_PROGRESS_SECONDS", 0.2)
    log = EventLog(tmp_path / "events.jsonl")
    log.path.write_text("a\n")
    assert log.wait(4) == 3
