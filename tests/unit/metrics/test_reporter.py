"""The reporter: it writes at intervals and reads for scrapes, even with a failing disk."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxy.core.errors import BackendError
from proxy.metrics import reporter as reporter_module
from proxy.metrics.multiprocess import MetricsDirectory, Writer
from proxy.metrics.reporter import Reporter
from proxy.metrics.samples import Samples
from tests.support.event_samples import block
from tests.support.wait import wait_until

REQUESTS = "proxy_requests_total"
KEY = ("chat", "GET", "200", "completed")


class Source:
    """``streams`` is what it measures."""

    def __init__(self) -> None:
        self.streams = 1.0

    def measure(self, samples: Samples) -> None:
        if self.streams < 0:
            raise ZeroDivisionError
        samples.set("proxy_requests_in_flight", self.streams)

    def free_space(self) -> tuple[int, int]:
        return 10, 20


class Worker:
    def __init__(self, folder: Path) -> None:
        self.samples = Samples()
        self.source = Source()
        self.directory = MetricsDirectory(folder / "1-1")
        self.node = MetricsDirectory(folder / "node")
        self.reporter = Reporter(self.samples, self.source, [self.directory, self.node])

    def count(self, number: int) -> None:
        self.samples.count(REQUESTS, KEY, number)

    def seen(self) -> Any:
        return self.reporter.read(lambda samples: samples).values[REQUESTS][KEY]


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    monkeypatch.setattr(reporter_module, "_INTERVAL_SECONDS", 0.02)
    made = [Worker(tmp_path / "metrics") for _ in range(2)]
    for worker in made:
        worker.reporter.start()
    yield made
    for worker in made:
        worker.reporter.close()


def written(worker: Worker) -> Any:
    return worker.directory.read().values.get(REQUESTS, {}).get(KEY)


def test_each_worker_reads_the_samples_of_all(workers: list[Worker]) -> None:
    for worker, number in zip(workers, (1, 10), strict=True):
        worker.count(number)
    wait_until(lambda: written(workers[0]) == 11)
    assert [worker.seen() for worker in workers] == [11, 11]
    wait_until(lambda: "proxy_data_dir_free_bytes" in workers[1].samples.values)
    values = workers[1].reporter.read(lambda samples: samples).values
    assert values["proxy_requests_in_flight"] == {(): 2.0}
    assert values["proxy_data_dir_free_bytes"] == {(): 10}
    assert values["proxy_event_loop_lag_seconds"][()] >= 0


def test_counters_never_fall_between_scrapes(workers: list[Worker]) -> None:
    """The next scrape reaches another worker before this one has written at its interval."""
    first, second = workers
    last = 0
    for _ in range(100):
        first.count(1)
        shown = first.seen()
        then = second.seen()
        assert last <= shown <= then
        last = then


def test_the_samples_of_the_node_are_included(workers: list[Worker]) -> None:
    shipper = Samples()
    shipper.set("proxy_sink_delivered_total", 5, ("cloudwatch",))
    workers[0].node.writer("shipper").publish(shipper)
    values = workers[1].reporter.read(lambda samples: samples).values
    assert values["proxy_sink_delivered_total"] == {("cloudwatch",): 5}


def test_making_the_page_does_not_block_the_loop(workers: list[Worker]) -> None:
    turns = 0

    def page(samples: Samples) -> int:
        before = turns
        block(0.2)
        return turns - before

    def turn() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0.002)
            turns += 1

    greenlet = gevent.spawn(turn)
    assert workers[0].reporter.read(page) > 3
    greenlet.kill()


def test_counters_of_an_ended_worker_are_kept(workers: list[Worker], tmp_path: Path) -> None:
    first, second = workers
    first.count(3)
    second.count(4)
    first.reporter.close()
    first.reporter.close()
    assert second.seen() == 7
    values = second.reporter.read(lambda samples: samples).values
    assert values["proxy_requests_in_flight"] == {(): 1.0}
    # The next reporter that starts adds it up.
    third = Worker(tmp_path / "metrics")
    third.reporter.start()
    wait_until(lambda: (tmp_path / "metrics" / "1-1" / "ended").exists())
    third.count(1)
    assert third.seen() == 8
    third.reporter.close()


def test_reading_before_the_start_is_an_error() -> None:
    reporter = Worker(Path("/nonexistent")).reporter
    with pytest.raises(BackendError):
        reporter.read(lambda samples: samples)
    reporter.close()


def test_an_unwritable_folder_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporter_module, "_INTERVAL_SECONDS", 0.01)
    (tmp_path / "metrics").write_text("a file is in the way")
    worker = Worker(tmp_path / "metrics")
    worker.count(5)
    worker.reporter.start()
    gevent.sleep(0.1)
    # Its own samples at least, and one log line instead of one per interval.
    assert worker.seen() == 5
    worker.reporter.close()
    said = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert len(said) == len(set(said))
    assert any("cannot be written" in text for text in said)


def test_a_failed_measurement_stops_nothing(
    workers: list[Worker], caplog: pytest.LogCaptureFixture
) -> None:
    workers[0].source.streams = -1.0
    workers[0].count(5)
    assert workers[0].seen() == 5
    assert workers[0].seen() == 5
    assert [r.message for r in caplog.records] == [
        "metrics: some samples cannot be measured: ZeroDivisionError: "
    ]


def test_a_hanging_disk_does_not_block_the_event_loop(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter_module, "_TIMEOUT_SECONDS", 0.1)
    hangs = True

    def hang(self: Writer, dumped: bytes) -> None:
        while hangs:
            block(0.01)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", hang)
        gevent.sleep(0.05)
        with pytest.raises(BackendError) as caught:
            workers[0].reporter.read(lambda samples: samples)
        hangs = False
    assert caught.value.status == 503
    workers[0].count(1)
    wait_until(lambda: written(workers[0]) == 1)
