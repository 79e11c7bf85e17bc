"""A sink's worker: lines added, done, pending and dropped."""

from collections.abc import Iterator

import pytest

from proxy.events import sink_worker as delivery_module
from proxy.events.sink_worker import SinkWorker
from tests.support.event_samples import Sink, block, wait_for


def fail() -> None:
    raise OSError("no space left")


@pytest.fixture
def sink() -> Iterator[Sink]:
    return Sink()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_MIN_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(delivery_module, "_MAX_PAUSE_SECONDS", 0.05)


def test_done_counts_lines_that_the_sink_has_accepted(sink: Sink) -> None:
    sink.trouble = fail
    worker = SinkWorker(sink, 100)
    worker.add([b"1\n", b"2\n"])
    wait_for(lambda: worker.errors)
    assert (worker.added, worker.done, worker.pending) == (2, 0, 2)
    assert not worker.free
    worker.add([b"3\n"])
    sink.trouble = lambda: None
    wait_for(lambda: worker.done == 3)
    assert worker.free
    assert sink.lines == [b"1\n", b"2\n", b"3\n"]
    worker.finish().join(5)


def test_lines_being_written_are_not_done(sink: Sink) -> None:
    sink.trouble = lambda: block(0.2)
    worker = SinkWorker(sink, 3)
    worker.add([b"1\n", b"2\n"])
    wait_for(lambda: sink.busy)
    worker.add([b"x\n", b"3\n", b"4\n", b"5\n"])  # one more than is kept
    assert (worker.dropped, worker.done) == (1, 0)
    wait_for(lambda: worker.done == 6)
    assert sink.lines == [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n"]
    worker.finish().join(5)


def test_pauses_are_jittered(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise all workers of a node would retry at the same moment."""
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    monkeypatch.setattr("random.uniform", uniform)
    sink.trouble = fail
    worker = SinkWorker(sink, 10)
    worker.add([b"1\n"])
    wait_for(lambda: worker.errors >= 3)
    assert asked[:2] == [(0.5, 1), (0.5, 1)]
    worker.finish().join(5)


def test_dropped_lines_are_done(sink: Sink) -> None:
    sink.trouble = fail
    worker = SinkWorker(sink, 2)
    worker.add([b"1\n"])
    wait_for(lambda: worker.errors >= 2)
    worker.add([b"2\n", b"3\n", b"4\n"])
    wait_for(lambda: worker.dropped == 2)
    wait_for(lambda: worker.done == 2)
    assert worker.pending == 2
    worker.finish().join(5)


def test_a_slow_sink_is_waited_for(sink: Sink) -> None:
    """A slow sink has at most its backlog waiting, and loses nothing."""
    sink.trouble = lambda: block(0.005)
    worker = SinkWorker(sink, 2)
    for number in range(20):
        worker.wait_for_room(2)
        worker.add([b"%d\n" % number, b"x\n"])
    wait_for(lambda: len(sink.lines) == 40)
    assert worker.dropped == 0
    worker.finish().join(5)


def test_a_hanging_or_failing_sink_is_waited_for_once(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "_STALLED_SECONDS", 0.01)
    hanging = [True]

    def hang() -> None:
        while hanging:
            block(0.001)

    sink.trouble = hang
    worker = SinkWorker(sink, 2)
    worker.add([b"1\n"])
    wait_for(lambda: sink.busy)
    worker.add([b"2\n", b"3\n"])
    worker.wait_for_room(2)
    monkeypatch.setattr(delivery_module, "_STALLED_SECONDS", 60)
    worker.wait_for_room(2)  # not again, until it has moved
    worker.add([b"4\n"])
    assert worker.dropped == 1
    hanging.clear()
    wait_for(lambda: len(sink.lines) == 3)
    sink.trouble = fail
    worker.add([b"5\n", b"6\n"])
    wait_for(lambda: worker.errors)
    worker.wait_for_room(2)
    worker.finish().join(5)
