"""Everybody's figures: the living, the killed, those added up; nothing twice, nothing lost."""

import os
import time
from pathlib import Path

import pytest

from proxy.metrics import multiprocess as board_module
from proxy.metrics.multiprocess import MetricsDirectory, Writer, server_name
from proxy.metrics.samples import Samples

REQUESTS = "proxy_requests_total"
STREAMS = "proxy_requests_in_flight"
KEY = ("chat", "GET", "200", "completed")


def figures(count: int, streams: int = 1) -> Samples:
    made = Samples()
    made.count(REQUESTS, KEY, count)
    made.set(STREAMS, streams)
    return made


def seen(board: MetricsDirectory) -> tuple[float, float]:
    values = board.read().values
    return values.get(REQUESTS, {}).get(KEY, 0), values.get(STREAMS, {}).get((), 0)


@pytest.fixture
def board(tmp_path: Path) -> MetricsDirectory:
    return MetricsDirectory(tmp_path / "metrics" / "1-1")


def published(board: MetricsDirectory, count: int, streams: int = 1) -> Writer:
    writer = board.writer("worker")
    writer.publish(figures(count, streams))
    return writer


def files(board: MetricsDirectory) -> list[str]:
    return sorted(os.listdir(board._folder))


def test_an_empty_directory(board: MetricsDirectory, tmp_path: Path) -> None:
    assert seen(board) == (0, 0)
    board.tidy()
    board.remove_abandoned()
    assert os.listdir(tmp_path) == []


def test_running_processes_are_summed(board: MetricsDirectory) -> None:
    writers = [published(board, number, 2) for number in (1, 10, 100)]
    assert seen(board) == (111, 6)
    writers[0].publish(figures(2, 0))
    assert seen(board) == (112, 4)
    assert board.read(leave_out=writers[2].name).values[REQUESTS] == {KEY: 12}


def test_counters_of_ended_processes_are_kept(board: MetricsDirectory) -> None:
    writers = [published(board, number) for number in (1, 10, 100)]
    writers[0].close()
    assert seen(board) == (111, 2)
    board.tidy()
    assert seen(board) == (111, 2)
    writers[1].close()
    for _ in range(3):
        board.tidy()
        assert seen(board) == (111, 1)
    assert files(board) == ["ended", "lock", writers[2].name]


def test_a_kill_while_adding_up_counts_no_process_twice(
    board: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(board, 1).close()
    published(board, 10).close()
    with monkeypatch.context() as patch:

        def killed(self: Path, **kwargs: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            board.tidy()
    assert seen(board) == (11, 0)
    third = published(board, 100)
    third.close()
    for _ in range(2):
        board.tidy()
        assert seen(board) == (111, 0)
    assert files(board) == ["ended", "lock"]


def test_a_full_disk_keeps_the_files_and_the_counts(
    board: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(board, 1).close()
    before = files(board)

    def full(self: Path, data: bytes) -> None:
        raise OSError("full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        board.tidy()
    assert seen(board) == (1, 0)
    assert set(before) <= set(files(board))


def test_one_process_adds_up_and_readers_wait_for_it(
    board: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(board, 1).close()
    monkeypatch.setattr(board_module, "_TIMEOUT_SECONDS", 0.05)
    with board._locked(0) as locked:
        assert locked
        board.tidy()
        assert "ended" not in files(board)
        assert seen(board) == (1, 0)  # in the end it reads all the same
    with (
        board._locked(0, shared=True),
        board._locked(0, shared=True) as locked,
    ):
        assert locked


def test_series_of_ended_processes_are_bounded(
    board: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "_MAX_SERIES", 3)
    for number in range(10):
        writer = board.writer("worker")
        made = Samples()
        made.count("proxy_tokens_total", ("prompt", f"p{number}", "m"), 2)
        writer.publish(made)
        writer.close()
        board.tidy()
    tokens = board.read().values["proxy_tokens_total"]
    assert len(tokens) == 4
    assert sum(tokens.values()) == 20


def test_damaged_files_are_ignored(board: MetricsDirectory) -> None:
    published(board, 1)
    for name in ("worker-1-x.samples", "ended"):
        (board._folder / name).write_bytes(b"rubbish\nrubbish")
    assert seen(board) == (1, 1)
    board.tidy()
    assert seen(board) == (1, 1)


def test_folders_of_ended_servers_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    names = ("1-1", "2-2", "3-3", "node")
    boards = {name: MetricsDirectory(folder / name) for name in names}
    writers = {name: published(board, 1) for name, board in boards.items()}
    for name in ("1-1", "3-3", "node"):
        writers[name].close()
    long_ago = time.time() - 1000
    for name in ("2-2", "3-3", "node"):
        for path in [folder / name, *(folder / name).iterdir()]:
            os.utime(path, (long_ago, long_ago))
    boards["1-1"].remove_abandoned()
    # 2-2 lives, although it was long silent; `node` is no server's; 1-1 has asked.
    assert sorted(os.listdir(folder)) == ["1-1", "2-2", "node"]
    MetricsDirectory(folder / "9-9").remove_abandoned()
    assert "1-1" in os.listdir(folder), "it was there a moment ago"


def test_files_of_an_older_version_count_and_are_removed(board: MetricsDirectory) -> None:
    writers = [published(board, number) for number in (1, 10)]
    old = Path(writers[0].name).with_suffix(".figures").name
    (board._folder / writers[0].name).rename(board._folder / old)
    assert seen(board) == (11, 2)
    writers[0].close()
    board.tidy()
    assert seen(board) == (11, 1)
    assert files(board) == ["ended", "lock", writers[1].name]


def test_a_server_has_one_name(tmp_path: Path) -> None:
    assert server_name(os.getpid()) == server_name(os.getpid())
    assert server_name(os.getpid()) != server_name(1)
    assert server_name(2**30) == f"{2**30}-0"
