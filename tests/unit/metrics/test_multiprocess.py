"""Samples of running, killed and ended processes: none counts twice, none is lost."""

import os
import time
from pathlib import Path

import pytest

from proxy.metrics import multiprocess as multiprocess_module
from proxy.metrics.multiprocess import MetricsDirectory, Writer, server_name
from proxy.metrics.samples import Samples

REQUESTS = "proxy_requests_total"
STREAMS = "proxy_requests_in_flight"
KEY = ("chat", "GET", "200", "completed")


def samples(count: int, streams: int = 1) -> Samples:
    made = Samples()
    made.count(REQUESTS, KEY, count)
    made.set(STREAMS, streams)
    return made


def seen(directory: MetricsDirectory) -> tuple[float, float]:
    values = directory.read().values
    return values.get(REQUESTS, {}).get(KEY, 0), values.get(STREAMS, {}).get((), 0)


@pytest.fixture
def directory(tmp_path: Path) -> MetricsDirectory:
    return MetricsDirectory(tmp_path / "metrics" / "1-1")


def published(directory: MetricsDirectory, count: int, streams: int = 1) -> Writer:
    writer = directory.writer("worker")
    writer.publish(samples(count, streams))
    return writer


def files(directory: MetricsDirectory) -> list[str]:
    return sorted(os.listdir(directory._folder))


def test_an_empty_directory(directory: MetricsDirectory, tmp_path: Path) -> None:
    assert seen(directory) == (0, 0)
    directory.tidy()
    directory.remove_abandoned()
    assert os.listdir(tmp_path) == []


def test_running_processes_are_summed(directory: MetricsDirectory) -> None:
    writers = [published(directory, number, 2) for number in (1, 10, 100)]
    assert seen(directory) == (111, 6)
    writers[0].publish(samples(2, 0))
    assert seen(directory) == (112, 4)
    assert directory.read(leave_out=writers[2].name).values[REQUESTS] == {KEY: 12}


def test_counters_of_ended_processes_are_kept(directory: MetricsDirectory) -> None:
    writers = [published(directory, number) for number in (1, 10, 100)]
    writers[0].close()
    assert seen(directory) == (111, 2)
    directory.tidy()
    assert seen(directory) == (111, 2)
    writers[1].close()
    for _ in range(3):
        directory.tidy()
        assert seen(directory) == (111, 1)
    assert files(directory) == ["ended", "lock", writers[2].name]


def test_a_kill_while_adding_up_counts_no_process_twice(
    directory: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(directory, 1).close()
    published(directory, 10).close()
    with monkeypatch.context() as patch:

        def killed(self: Path, **kwargs: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            directory.tidy()
    assert seen(directory) == (11, 0)
    third = published(directory, 100)
    third.close()
    for _ in range(2):
        directory.tidy()
        assert seen(directory) == (111, 0)
    assert files(directory) == ["ended", "lock"]


def test_a_full_disk_keeps_the_files_and_the_counts(
    directory: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(directory, 1).close()
    before = files(directory)

    def full(self: Path, data: bytes) -> None:
        raise OSError("full")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        directory.tidy()
    assert seen(directory) == (1, 0)
    assert set(before) <= set(files(directory))


def test_one_process_adds_up_and_readers_wait_for_it(
    directory: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(directory, 1).close()
    monkeypatch.setattr(multiprocess_module, "_TIMEOUT_SECONDS", 0.05)
    with directory._locked(0) as locked:
        assert locked
        directory.tidy()
        assert "ended" not in files(directory)
        assert seen(directory) == (1, 0)  # it reads in the end
    with (
        directory._locked(0, shared=True),
        directory._locked(0, shared=True) as locked,
    ):
        assert locked


def test_series_of_ended_processes_are_bounded(
    directory: MetricsDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocess_module, "_MAX_SERIES", 3)
    for number in range(10):
        writer = directory.writer("worker")
        made = Samples()
        made.count("proxy_tokens_total", ("prompt", f"p{number}", "m"), 2)
        writer.publish(made)
        writer.close()
        directory.tidy()
    tokens = directory.read().values["proxy_tokens_total"]
    assert len(tokens) == 4
    assert sum(tokens.values()) == 20


def test_damaged_files_are_ignored(directory: MetricsDirectory) -> None:
    published(directory, 1)
    for name in ("worker-1-x.samples", "ended"):
        (directory._folder / name).write_bytes(b"rubbish\nrubbish")
    assert seen(directory) == (1, 1)
    directory.tidy()
    assert seen(directory) == (1, 1)


def test_folders_of_ended_servers_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    names = ("1-1", "2-2", "3-3", "node")
    directories = {name: MetricsDirectory(folder / name) for name in names}
    writers = {name: published(directory, 1) for name, directory in directories.items()}
    for name in ("1-1", "3-3", "node"):
        writers[name].close()
    long_ago = time.time() - 1000
    for name in ("2-2", "3-3", "node"):
        for path in [folder / name, *(folder / name).iterdir()]:
            os.utime(path, (long_ago, long_ago))
    directories["1-1"].remove_abandoned()
    # 2-2 runs, although it was long silent; `node` is no server's folder; 1-1 is the caller's.
    assert sorted(os.listdir(folder)) == ["1-1", "2-2", "node"]
    MetricsDirectory(folder / "9-9").remove_abandoned()
    assert "1-1" in os.listdir(folder), "it was there a moment ago"


def test_files_of_an_older_version_count_and_are_removed(directory: MetricsDirectory) -> None:
    writers = [published(directory, number) for number in (1, 10)]
    old = Path(writers[0].name).with_suffix(".samples").name
    (directory._folder / writers[0].name).rename(directory._folder / old)
    assert seen(directory) == (11, 2)
    writers[0].close()
    directory.tidy()
    assert seen(directory) == (11, 1)
    assert files(directory) == ["ended", "lock", writers[1].name]


def test_a_server_has_one_name(tmp_path: Path) -> None:
    assert server_name(os.getpid()) == server_name(os.getpid())
    assert server_name(os.getpid()) != server_name(1)
    assert server_name(2**30) == f"{2**30}-0"
