"""A worker's writing thread (``proxy/cache/backends/writer_thread.py``)."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
import pytest
from gevent import monkey

from proxy.cache.backends.writer_thread import Job, WriterThread
from tests.support.wait import wait_until

native_event = monkey.get_original("threading", "Event")


class Recorder:
    """Runs batches; each waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.threads: set[int] = set()
        self.gate = native_event()
        self.gate.set()

    def run(self, batch: Sequence[Job]) -> None:
        self.gate.wait(20)
        self.threads.add(monkey.get_original("threading", "get_ident")())
        self.batches.append([])
        for job in batch:
            try:
                job.value = job.work(self)
            except ValueError as error:
                job.error = error

    def note(self, what: object) -> Callable[[Any], object]:
        def work(_: object) -> object:
            self.batches[-1].append(what)
            return what

        return work


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.gate.set()


@pytest.fixture
def writer(recorder: Recorder) -> Iterator[WriterThread]:
    writer = WriterThread(recorder.run, max_jobs=10, max_bytes=1000, max_batch=4, batch_bytes=300)
    yield writer
    recorder.gate.set()
    assert writer.close(20)


def test_jobs_run_in_order_on_another_thread(recorder: Recorder, writer: WriterThread) -> None:
    for number in range(10):
        assert writer.offer(Job(recorder.note(number)))
    assert writer.flush(20)
    assert [what for batch in recorder.batches for what in batch] == list(range(10))
    assert all(0 < len(batch) <= 4 for batch in recorder.batches)
    assert recorder.threads.isdisjoint({threading.get_ident()})
    assert len(recorder.threads) == 1


def test_a_batch_ends_by_its_size(recorder: Recorder, writer: WriterThread) -> None:
    recorder.gate.clear()
    writer.offer(Job(recorder.note("first")))
    for size in (100, 250, 10, 10):
        writer.offer(Job(recorder.note(size), size))
    recorder.gate.set()
    assert writer.flush(20)
    assert recorder.batches == [["first"], [100, 250], [10, 10]]


def test_the_queue_is_bounded(recorder: Recorder, writer: WriterThread) -> None:
    recorder.gate.clear()
    assert writer.offer(Job(recorder.note("running"), 600))
    assert not writer.offer(Job(recorder.note("too large"), 401))
    assert writer.offer(Job(recorder.note("fits"), 400))
    recorder.gate.set()
    assert writer.flush(20)
    recorder.gate.clear()
    writer.offer(Job(recorder.note("running")))
    assert [writer.offer(Job(recorder.note(number))) for number in range(12)].count(True) == 10
    with pytest.raises(TimeoutError):
        writer.call(recorder.note("one more"), 20)


def test_a_call_returns_its_value_or_its_error(recorder: Recorder, writer: WriterThread) -> None:
    def fail(_: object) -> None:
        raise ValueError("as it was told")

    assert writer.call(recorder.note("value"), 20) == "value"
    with pytest.raises(ValueError, match="as it was told"):
        writer.call(fail, 20)
    calls = [gevent.spawn(writer.call, recorder.note(number), 20) for number in range(8)]
    gevent.joinall(calls, timeout=20, raise_error=True)
    assert [call.value for call in calls] == list(range(8))


def test_a_call_does_not_wait_for_ever(recorder: Recorder, writer: WriterThread) -> None:
    recorder.gate.clear()
    with pytest.raises(TimeoutError):
        writer.call(recorder.note("late"), 0.01)
    assert not writer.flush(0.01)
    recorder.gate.set()
    assert writer.flush(20)
    assert recorder.batches == [["late"]]


def test_a_thread_that_hangs_is_left_behind(recorder: Recorder) -> None:
    writer = WriterThread(recorder.run, max_jobs=10, max_bytes=1000, max_batch=4, batch_bytes=300)
    recorder.gate.clear()
    writer.offer(Job(recorder.note("hangs")))
    assert not writer.close(0.01)
    recorder.gate.set()
    wait_until(lambda: recorder.batches == [["hangs"]])
