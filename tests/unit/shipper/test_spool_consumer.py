"""One sink and the spools (``proxy/shipper/spool_consumer.py``)."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.events.spool.offsets import START, Offset, read_offset
from proxy.events.spool.retention import register_sinks
from proxy.events.spool.segment import Batch, read_batch
from proxy.runtime.backoff import Backoff
from proxy.shipper import spool_consumer as module
from proxy.shipper.spool_consumer import SpoolConsumer
from tests.support import spool_factories
from tests.support.spool_factories import abandoned, numbers, write
from tests.support.wait import wait_until


class Bench:
    """A spool, a sink that can be made to fail, and consumers for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: list[int] = []
        self.sources: list[str] = []
        self.tries = 0
        self.closed = 0
        self.trouble: Callable[[str, Batch], None] = lambda _source, _batch: None
        self.running: list[SpoolConsumer] = []
        register_sinks(root, ["test"])

    def take(self, source: str, start: Offset, batch: Batch) -> Offset:
        assert start < batch.offset
        self.tries += 1
        self.trouble(source, batch)
        self.taken += numbers(batch.lines)
        self.sources.append(source)
        return batch.offset

    def close(self) -> None:
        self.closed += 1

    def start(self) -> SpoolConsumer:
        made = SpoolConsumer(
            "test", self.take, self.root, close=self.close, backoff=lambda: Backoff(0.01, 0.05)
        )
        made.start()
        self.running.append(made)
        return made

    def finish(self) -> None:
        running, self.running = self.running, []
        for each in running:
            each.finish()
            assert each.join(20)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "_POLL_INTERVAL_SECONDS", 0.02)
    made = Bench(tmp_path / "spool")
    yield made
    made.trouble = lambda _source, _batch: None
    made.finish()


def away(_source: str, _batch: Batch) -> None:
    raise ConnectionError("the sink is away")


def test_events_of_all_writers_arrive_and_read_folders_are_removed(bench: Bench) -> None:
    gone = abandoned(bench.root, range(100))
    living = write(bench.root, range(100, 200))
    consumer = bench.start()
    wait_until(lambda: consumer.delivered == 200)
    assert sorted(bench.taken) == list(range(200))
    assert set(bench.sources) == {gone.name, living.folder.name}
    spool_factories.append(living, range(200, 210))
    wait_until(lambda: len(bench.taken) == 210)
    wait_until(lambda: not gone.exists())
    assert living.folder.exists()
    wait_until(lambda: consumer.pending_bytes == 0)
    assert consumer.pending_events == 0
    assert consumer.lag == 0
    bench.finish()
    assert bench.closed == 1


def test_the_offset_moves_only_when_the_sink_has_accepted(bench: Bench) -> None:
    bench.trouble = away
    folder = abandoned(bench.root, range(10))
    consumer = bench.start()
    wait_until(lambda: bench.tries > 5)
    assert read_offset(folder, "test") == START
    assert consumer.errors >= 5
    assert consumer.trouble == "ConnectionError: the sink is away"
    assert consumer.pending_bytes > 0
    assert consumer.pending_events > 0
    # The samples are of the morning of a day that is over.
    assert consumer.lag > 0
    bench.trouble = lambda _source, _batch: None
    wait_until(lambda: sorted(bench.taken) == list(range(10)))
    wait_until(lambda: consumer.trouble is None and not folder.exists())


def test_the_next_consumer_continues_at_the_offset(bench: Bench) -> None:
    writer = write(bench.root, range(10))
    bench.start()
    wait_until(lambda: len(bench.taken) == 10)
    bench.finish()
    spool_factories.append(writer, range(10, 20))
    bench.start()
    wait_until(lambda: bench.taken == list(range(20)))


def test_finish_delivers_what_is_there(bench: Bench) -> None:
    """And makes one more attempt at a sink that is away."""
    write(bench.root, range(2000))
    consumer = bench.start()
    consumer.finish()
    assert consumer.join(20)
    assert bench.taken == list(range(2000))


def test_a_failing_sink_does_not_block_the_end(bench: Bench) -> None:
    bench.trouble = away
    write(bench.root, range(10))
    consumer = SpoolConsumer("test", bench.take, bench.root, backoff=lambda: Backoff(1000, 1000))
    consumer.start()
    wait_until(lambda: consumer.errors == 1)
    consumer.finish()
    assert consumer.join(20)
    assert consumer.errors == 2


def test_a_bad_event_of_one_writer_does_not_block_the_others(bench: Bench) -> None:
    bad = abandoned(bench.root, range(10))
    write(bench.root, range(10, 2000))

    def trouble(source: str, _batch: Batch) -> None:
        if source == bad.name:
            raise ConnectionError

    bench.trouble = trouble
    bench.start()
    wait_until(lambda: bench.taken == list(range(10, 2000)))


def test_a_folder_that_is_refused_does_not_throttle_the_others(bench: Bench) -> None:
    """Its pauses do not affect other folders."""
    bad = abandoned(bench.root, range(1))
    good = write(bench.root, [1])
    refused: list[int] = []

    def trouble(source: str, _batch: Batch) -> None:
        if source == bad.name:
            refused.append(1)
            raise ConnectionError("HTTP 500")

    bench.trouble = trouble
    consumer = SpoolConsumer("test", bench.take, bench.root, backoff=lambda: Backoff(1000, 1000))
    consumer.start()
    for number in range(2, 10):  # one after the other: between two there is nothing to take
        wait_until(lambda: len(bench.taken) == number - 1)  # noqa: B023
        spool_factories.append(good, [number])
    wait_until(lambda: len(bench.taken) == 9)
    assert (len(refused), consumer.errors) == (1, 1)
    assert consumer.trouble == "ConnectionError: HTTP 500"
    spool_factories.append(good, range(10, 3000))
    consumer.finish()
    assert consumer.join(20)
    assert bench.taken == list(range(1, 3000))
    assert len(refused) == 2, "once more at the end"


def test_an_offset_that_cannot_be_written_repeats_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = module.write_offset

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_offset", full)
    folder = abandoned(bench.root, range(1200))
    consumer = bench.start()
    wait_until(lambda: consumer.errors > 5)
    assert bench.taken == list(range(1200))
    assert read_offset(folder, "test") == START
    assert consumer.trouble is not None
    monkeypatch.setattr(module, "write_offset", original)
    wait_until(lambda: not folder.exists())
    assert bench.taken == list(range(1200))


def test_an_unreadable_folder_does_not_block_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = abandoned(bench.root, range(10))
    write(bench.root, range(10, 20))

    def read(folder: Path, *arguments: object, **named: object) -> Batch:
        if folder == broken:
            raise OSError(errno.EIO, "Input/output error")
        return read_batch(folder, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "read_batch", read)
    consumer = bench.start()
    wait_until(lambda: bench.taken == list(range(10, 20)))
    wait_until(lambda: consumer.trouble is not None)


def test_a_sink_with_its_own_offset_decides_where_to_continue(bench: Bench) -> None:
    """The ledger does so after a shipper was killed before it wrote the offset."""
    folder = abandoned(bench.root, range(10))
    further = read_batch(folder, START, max_lines=4).offset
    starts: list[Offset] = []

    def take(source: str, start: Offset, batch: Batch) -> Offset:
        starts.append(start)
        return further if start < further else bench.take(source, start, batch)

    consumer = SpoolConsumer("test", take, bench.root)
    consumer.start()
    wait_until(lambda: bench.taken == list(range(4, 10)))
    assert starts == [START, further]
    wait_until(lambda: consumer.delivered == 6)
    consumer.finish()
    assert consumer.join(20)


def test_pending_events_are_estimated_from_the_mean_size(bench: Bench) -> None:
    writer = write(bench.root, range(100, 200))
    consumer = bench.start()
    wait_until(lambda: consumer.delivered == 100)
    bench.trouble = away
    spool_factories.append(writer, range(200, 500))
    assert consumer.pending_events == 300


def test_damaged_records_are_counted_and_skipped(bench: Bench) -> None:
    folder = abandoned(bench.root, range(3))
    (segment,) = folder.glob("*.log")
    data = segment.read_bytes()
    segment.write_bytes(data.replace(b'"e1"', b'"eX"'))
    consumer = bench.start()
    wait_until(lambda: bench.taken == [0, 2])
    wait_until(lambda: consumer.damaged == 1 and not folder.exists())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_kill_before_the_offset_is_written_repeats_a_batch(bench: Bench) -> None:
    """Only the batch in flight is repeated."""
    writer = write(bench.root, range(10))
    bench.start()
    wait_until(lambda: len(bench.taken) == 10)
    bench.finish()
    spool_factories.append(writer, range(10, 20))
    hangs = threading.Event()

    def trouble(_source: str, batch: Batch) -> None:
        bench.taken += numbers(batch.lines)
        hangs.wait(0.2)
        raise SystemExit

    bench.trouble = trouble
    dead = bench.start()
    assert dead.join(20)
    bench.running.clear()
    bench.trouble = lambda _source, _batch: None
    bench.start()
    wait_until(lambda: len(bench.taken) == 30)
    assert sorted(bench.taken) == sorted([*range(20), *range(10, 20)])


def test_pauses_grow_while_the_sink_is_away(bench: Bench) -> None:
    bench.trouble = away
    write(bench.root, range(10))
    consumer = SpoolConsumer("test", bench.take, bench.root, backoff=lambda: Backoff(0.2, 1000))
    started = time.monotonic()
    consumer.start()
    wait_until(lambda: consumer.errors == 3)
    assert time.monotonic() - started >= 0.1 + 0.2
    consumer.finish()
    consumer.join(20)
