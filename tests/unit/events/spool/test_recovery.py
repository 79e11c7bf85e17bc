"""Recovery: a worker delivers the lines of ended workers and removes their folders."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.events import sink_worker as sink_worker_module
from proxy.events.sink_worker import SinkWorker
from proxy.events.spool import recovery as recovery_module
from proxy.events.spool.inflight_table import InFlightTable
from proxy.events.spool.offsets import Offset, read_offset, write_offset
from proxy.events.spool.recovery import SpoolRecovery
from proxy.events.spool.retention import INFLIGHT_TABLE, LOCAL, writer_folders
from proxy.events.spool.segment import read_batch, segment_numbers, segment_path
from proxy.events.spool.writer import SegmentWriter
from tests.support.event_samples import Sink, intent, names, record, wait_for


def leave_behind(root: Path, *spooled: str, running: str = "") -> Path:
    writer = SegmentWriter.create(root)
    writer.append([record(name) for name in spooled])
    slots = InFlightTable.create(writer.folder, 10)
    for name in running:
        slots.reserve(intent(name))
    writer.close()
    writer.release()
    return writer.folder


class Worker:
    def __init__(self, root: Path, *sinks: Sink, remote: tuple[str, ...] = ()) -> None:
        self.sink_workers = [SinkWorker(sink, 1000) for sink in sinks]
        self.recovery = SpoolRecovery(
            root, {LOCAL, *remote} if sinks else set(remote), self.sink_workers
        )

    def close(self) -> None:
        self.recovery.close()
        for worker in self.sink_workers:
            worker.finish().join(5)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    monkeypatch.setattr(recovery_module, "_SCAN_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(sink_worker_module, "_MIN_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(sink_worker_module, "_MAX_PAUSE_SECONDS", 0.05)
    made: list[Worker] = []
    yield made
    for worker in made:
        worker.close()


def test_spools_are_recovered_at_the_start_and_later(tmp_path: Path, workers: list[Worker]) -> None:
    leave_behind(tmp_path, *"012", running="3")
    sinks = [Sink(), Sink()]
    workers.append(Worker(tmp_path, *sinks))
    wait_for(lambda: not writer_folders(tmp_path))
    assert [names(sink.lines) for sink in sinks] == [["0", "1", "2", "3"]] * 2
    leave_behind(tmp_path, "4", running="5")
    wait_for(lambda: not writer_folders(tmp_path))
    assert names(sinks[0].lines) == ["0", "1", "2", "3", "4", "5"]
    assert workers[0].recovery.recovered == 2


def test_the_spool_of_an_older_version_is_recovered(tmp_path: Path, workers: list[Worker]) -> None:
    """Its files have other names."""
    folder = leave_behind(tmp_path, *"012", running="3")
    segment = segment_numbers(folder)[0]
    write_offset(folder, LOCAL, Offset(segment, len(record("0"))))
    (folder / "inflight").rename(folder / "intents")
    (folder / "local.offset").rename(folder / "local.position")
    sink = Sink()
    workers.append(Worker(tmp_path, sink))
    wait_for(lambda: not writer_folders(tmp_path))
    assert names(sink.lines) == ["1", "2", "3"]
    assert workers[0].recovery.recovered == 1


def test_several_workers_recover_each_folder_once(tmp_path: Path, workers: list[Worker]) -> None:
    for number in range(10):
        leave_behind(tmp_path, f"{number}a", f"{number}b", running=str(number))
    sinks = [Sink(), Sink(), Sink()]
    workers += [Worker(tmp_path, sink) for sink in sinks]
    wait_for(lambda: not writer_folders(tmp_path), 20)
    found = [name for sink in sinks for name in names(sink.lines)]
    assert len(found) == len(set(found)) == 30


def test_a_failing_sink_gets_the_lines_later(tmp_path: Path, workers: list[Worker]) -> None:
    def fail() -> None:
        raise OSError("no space left")

    folder = leave_behind(tmp_path, *"012")
    sink = Sink(fail)
    workers.append(Worker(tmp_path, sink))
    wait_for(lambda: workers[0].sink_workers[0].errors > 2)
    assert read_offset(folder, LOCAL) == (0, 0)
    sink.trouble = lambda: None
    wait_for(lambda: not writer_folders(tmp_path))
    assert names(sink.lines) == ["0", "1", "2"]


def test_segments_that_a_remote_sink_lacks_stay(tmp_path: Path, workers: list[Worker]) -> None:
    folder = leave_behind(tmp_path, "0", running="1")
    workers.append(Worker(tmp_path, Sink(), remote=("redis",)))
    wait_for(lambda: not (folder / INFLIGHT_TABLE).exists() and read_offset(folder, LOCAL).segment)
    assert names(read_batch(folder, read_offset(folder, "redis")).lines) == ["0", "1"]


def test_without_local_sinks_slots_still_become_records(
    tmp_path: Path, workers: list[Worker]
) -> None:
    folder = leave_behind(tmp_path, running="1")
    workers.append(Worker(tmp_path, remote=("redis",)))
    wait_for(lambda: not (folder / INFLIGHT_TABLE).exists())
    wait_for(lambda: names(read_batch(folder, read_offset(folder, "redis")).lines) == ["1"])


def test_damage_is_counted_and_logged(
    tmp_path: Path, workers: list[Worker], caplog: pytest.LogCaptureFixture
) -> None:
    folder = leave_behind(tmp_path, "0")
    with segment_path(folder, segment_numbers(folder)[0]).open("ab") as file:
        file.write(b"torn")
    sink = Sink()
    workers.append(Worker(tmp_path, sink))
    wait_for(lambda: not writer_folders(tmp_path))
    assert names(sink.lines) == ["0"]
    assert workers[0].recovery.damaged == 1
    assert "1 damaged records" in caplog.text


@pytest.mark.parametrize("trouble", [OSError(5, "Input/output error"), ValueError("unforeseen")])
def test_a_failure_is_logged_once_and_retried(
    tmp_path: Path,
    workers: list[Worker],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
) -> None:
    leave_behind(tmp_path, "0")
    tries: list[int] = []

    def fail(_: object) -> None:
        tries.append(1)
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(recovery_module.AbandonedSpool, "recover", fail)
        sink = Sink()
        workers.append(Worker(tmp_path, sink))
        wait_for(lambda: len(tries) > 3)
    assert caplog.text.count("cannot be read") == 1
    wait_for(lambda: not writer_folders(tmp_path))
    assert names(sink.lines) == ["0"]


@pytest.mark.parametrize("trouble", ["not empty", "cannot be owned"])
def test_one_bad_folder_does_not_block_the_others(
    tmp_path: Path, workers: list[Worker], trouble: str
) -> None:
    bad = leave_behind(tmp_path, "0")
    if trouble == "not empty":
        (bad / "note").touch()
    else:
        (bad / "lock").unlink()
        (bad / "lock").symlink_to("lock")  # ELOOP for every process
    time.sleep(0.002)  # folders are ordered by the millisecond of their making
    good = [leave_behind(tmp_path, "1", running="2"), leave_behind(tmp_path, "3")]
    assert writer_folders(tmp_path)[0] == bad
    sink = Sink()
    workers.append(Worker(tmp_path, sink))
    wait_for(lambda: not any(folder.exists() for folder in good))
    assert sorted(set(names(sink.lines)) - {"0"}) == ["1", "2", "3"]
