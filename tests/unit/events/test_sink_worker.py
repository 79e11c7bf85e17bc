"""How much of what it was given a sink is done with: what the worker's position stands on."""

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
    delivery = SinkWorker(sink, 100)
    delivery.add([b"1\n", b"2\n"])
    wait_for(lambda: delivery.errors)
    assert (delivery.added, delivery.done, delivery.pending) == (2, 0, 2)
    assert not delivery.free
    delivery.add([b"3\n"])
    sink.trouble = lambda: None
    wait_for(lambda: delivery.done == 3)
    assert delivery.free
    assert sink.lines == [b"1\n", b"2\n", b"3\n"]
    delivery.finish().join(5)


def test_lines_being_written_are_not_done(sink: Sink) -> None:
    sink.trouble = lambda: block(0.2)
    delivery = SinkWorker(sink, 3)
    delivery.add([b"1\n", b"2\n"])
    wait_for(lambda: sink.busy)
    delivery.add([b"x\n", b"3\n", b"4\n", b"5\n"])  # one more than is kept
    assert (delivery.dropped, delivery.done) == (1, 0)
    wait_for(lambda: delivery.done == 6)
    assert sink.lines == [b"1\n", b"2\n", b"3\n", b"4\n", b"5\n"]
    delivery.finish().join(5)


def test_pauses_are_jittered(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a node lost the same file at the same moment."""
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    monkeypatch.setattr("random.uniform", uniform)
    sink.trouble = fail
    delivery = SinkWorker(sink, 10)
    delivery.add([b"1\n"])
    wait_for(lambda: delivery.errors >= 3)
    assert asked[:2] == [(0.5, 1), (0.5, 1)]
    delivery.finish().join(5)


def test_dropped_lines_are_done(sink: Sink) -> None:
    sink.trouble = fail
    delivery = SinkWorker(sink, 2)
    delivery.add([b"1\n"])
    wait_for(lambda: delivery.errors >= 2)
    delivery.add([b"2\n", b"3\n", b"4\n"])
    wait_for(lambda: delivery.dropped == 2)
    wait_for(lambda: delivery.done == 2)
    assert delivery.pending == 2
    delivery.finish().join(5)


def test_a_slow_sink_is_waited_for(sink: Sink) -> None:
    """It has no more than its backlog at a time, and loses nothing for being slower."""
    sink.trouble = lambda: block(0.005)
    delivery = SinkWorker(sink, 2)
    for number in range(20):
        delivery.wait_for_room(2)
        delivery.add([b"%d\n" % number, b"x\n"])
    wait_for(lambda: len(sink.lines) == 40)
    assert delivery.dropped == 0
    delivery.finish().join(5)


def test_a_hanging_or_failing_sink_is_waited_for_once(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "_STALLED_SECONDS", 0.01)
    hanging = [True]

    def hang() -> None:
        while hanging:
            block(0.001)

    sink.trouble = hang
    delivery = SinkWorker(sink, 2)
    delivery.add([b"1\n"])
    wait_for(lambda: sink.busy)
    delivery.add([b"2\n", b"3\n"])
    delivery.wait_for_room(2)
    monkeypatch.setattr(delivery_module, "_STALLED_SECONDS", 60)
    delivery.wait_for_room(2)  # not again, until it has moved
    delivery.add([b"4\n"])
    assert delivery.dropped == 1
    hanging.clear()
    wait_for(lambda: len(sink.lines) == 3)
    sink.trouble = fail
    delivery.add([b"5\n", b"6\n"])
    wait_for(lambda: delivery.errors)
    delivery.wait_for_room(2)
    delivery.finish().join(5)
