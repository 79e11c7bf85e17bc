"""The pump: sinks are independent, no event is lost needlessly, and a stop ends in time."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

from proxy.core.errors import ProxyError
from proxy.core.usage_event import Intent, UsageEvent
from proxy.events import pump as pump_module
from proxy.events import sink_worker as delivery_module
from proxy.events.pump import EventPump
from proxy.events.queue import EventQueue
from proxy.events.spool.inflight_table import leftover_records
from proxy.events.spool.offsets import read_offset
from proxy.events.spool.retention import LOCAL, writer_folders
from proxy.events.spool.segment import decode_record, read_batch
from proxy.events.spool.writer import NotSpooled, SegmentWriter, SpoolSettings, SpoolWriter
from proxy.runtime.backoff import Backoff
from tests.support.event_samples import Sink, block, event, names, wait_for
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_MIN_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(delivery_module, "_MAX_PAUSE_SECONDS", 0.1)


class Line:
    """A pump, its queue and its sinks."""

    def __init__(self, *sinks: Any, backlog: int = 10_000) -> None:
        self.queue = EventQueue(100_000)
        self.pump = EventPump(self.queue, sinks, backlog=backlog)
        self._next = 0

    def publish(self, count: int) -> list[str]:
        """Publish ``count`` events. Returns all names so far."""
        for _ in range(count):
            self.queue.publish(event(str(self._next)))
            self._next += 1
        return [str(number) for number in range(self._next)]


@pytest.fixture
def lines() -> Iterator[list[Line]]:
    made: list[Line] = []
    yield made
    for line in made:
        line.pump.close(0.2)


def fail() -> None:
    raise OSError("no space left")


def test_everything_goes_to_every_sink_in_order(lines: list[Line]) -> None:
    sinks = [Sink(), Sink()]
    line = Line(*sinks)
    lines.append(line)
    expected = line.publish(1300)
    wait_for(lambda: all(len(sink.lines) == 1300 for sink in sinks))
    assert [names(sink.lines) for sink in sinks] == [expected, expected]
    assert max(sinks[0].batches) <= 500


def test_other_lines_are_delivered_and_not_observed() -> None:
    seen: list[UsageEvent] = []
    queue, sink = EventQueue(10), Sink()
    pump = EventPump(queue, [sink], backlog=10, observe=seen.extend)
    queue.publish(event("a"))
    queue.publish_line(b'{"request_id":"b","event":"audit"}\n')
    queue.publish(event("c"))
    wait_for(lambda: len(sink.lines) == 3)
    pump.close(1)
    assert names(sink.lines) == ["a", "b", "c"]
    assert [known.request_id for known in seen] == ["a", "c"]


def test_observing_a_batch_yields_to_the_network() -> None:
    ours, theirs = gevent.socket.socketpair()
    seen: list[int] = []
    answered_after: list[int] = []

    def respond() -> None:
        ours.recv(1)
        answered_after.append(len(seen))

    def observe(events: Sequence[UsageEvent]) -> None:
        if not seen:
            theirs.send(b".")
        seen.extend(1 for _ in events)

    waiting = gevent.spawn(respond)
    gevent.sleep(0)
    queue = EventQueue(1000)
    for number in range(200):
        queue.publish(event(str(number)))
    pump = EventPump(queue, [], backlog=10, observe=observe)
    waiting.join(5)
    wait_for(lambda: len(seen) == 200)
    pump.close(0.2)
    ours.close()
    theirs.close()
    assert answered_after
    assert answered_after[0] < 50


def test_a_busy_loop_does_not_outrun_the_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these gives the others a turn after an event, as a connection does that never pauses:
    twenty events in each turn of the loop, for as long as it goes on."""
    monkeypatch.setattr(pump_module, "_LINGER_SECONDS", 1e-6)  # turns count, not seconds
    seen: list[int] = []
    queue, sink, longest = EventQueue(2000), Sink(), 0

    def publish() -> None:
        nonlocal longest
        for _ in range(1000):
            queue.publish(event())
            longest = max(longest, len(queue))
            gevent.sleep(1e-6)

    pump = EventPump(queue, [sink], backlog=20_000, observe=lambda events: seen.append(len(events)))
    gevent.joinall([gevent.spawn(publish) for _ in range(20)], raise_error=True)
    wait_for(lambda: sum(seen) == 20_000, 20)
    wait_for(lambda: len(sink.lines) == 20_000, 20)
    pump.close(5)
    assert queue.dropped == 0
    assert longest < 2000
    assert (queue.gate.waited, queue.gate.closed) == (0, False)


def test_publishers_that_never_wait_lose_nothing_and_close_the_gate() -> None:
    queue, sink = EventQueue(1000), Sink()
    pump = EventPump(queue, [sink], backlog=20_000)

    def publish() -> None:
        for _ in range(1000):
            queue.publish(event())

    gevent.joinall([gevent.spawn(publish) for _ in range(20)], raise_error=True)
    assert queue.gate.closed
    wait_for(lambda: len(sink.lines) == 20_000, 20)
    assert not queue.gate.closed
    pump.close(5)
    assert queue.dropped == 0


def test_without_sinks_the_queue_is_still_emptied(lines: list[Line]) -> None:
    line = Line()
    lines.append(line)
    line.publish(10)
    wait_for(lambda: not len(line.queue))


@pytest.mark.parametrize("trouble", [fail, lambda: block(0.3), lambda: block(0.01)])
def test_a_failing_sink_does_not_affect_the_others(lines: list[Line], trouble: Any) -> None:
    bad, good = Sink(trouble), Sink()
    line = Line(bad, good)
    lines.append(line)
    began = time.monotonic()
    for _ in range(10):
        expected = line.publish(20)
        gevent.sleep(0)
    wait_for(lambda: len(good.lines) == 200, 2)
    assert time.monotonic() - began < 1
    assert names(good.lines) == expected
    bad.trouble = lambda: None
    wait_for(lambda: len(bad.lines) == 200)
    assert names(bad.lines) == expected  # nothing lost, nothing twice, in order


def test_a_blocking_sink_does_not_block_the_event_loop(lines: list[Line]) -> None:
    line = Line(Sink(lambda: block(0.3)))
    lines.append(line)
    line.publish(1)
    began = time.monotonic()
    for _ in range(20):
        gevent.sleep(0.005)
    assert time.monotonic() - began < 0.25


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The requested pauses in seconds: the real ones depend on the machine."""
    pauses: list[float] = []

    class Noted(Backoff):
        def pause(self) -> float:
            pauses.append(super().pause())
            return pauses[-1]

    monkeypatch.setattr(delivery_module, "Backoff", Noted)
    return pauses


def test_pauses_between_attempts_grow_up_to_a_limit(lines: list[Line], asked: list[float]) -> None:
    sink = Sink(fail)
    line = Line(sink)
    lines.append(line)
    line.publish(1)
    (worker,) = line.pump.sink_workers
    wait_for(lambda: worker.errors >= 6)
    whole = (0.02, 0.04, 0.08, 0.1, 0.1)
    for pause, most in zip(asked, whole, strict=False):
        assert most / 2 <= pause <= most  # jittered
    made = [later - earlier for earlier, later in zip(sink.tries, sink.tries[1:], strict=False)]
    for pause, least in zip(made, whole, strict=False):
        assert pause >= least * 0.45
    sink.trouble = lambda: None
    wait_for(lambda: sink.lines)
    # After a success the next failure begins with a short pause again.
    sink.trouble = fail
    before = len(asked)
    line.publish(1)
    wait_for(lambda: len(asked) > before)
    assert asked[before] <= 0.02


def test_a_failing_sink_is_logged_once_per_episode(
    lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sink = Sink(fail)
    line = Line(sink)
    lines.append(line)
    for round_number in (1, 2):
        sink.trouble = fail
        tries = len(sink.tries)
        line.publish(1)
        wait_for(lambda: len(sink.tries) >= tries + 3)  # noqa: B023
        sink.trouble = lambda: None
        wait_for(lambda: len(sink.lines) == round_number)  # noqa: B023
    wait_for(lambda: caplog.text.count("works again") == 2)
    assert caplog.text.count("Sink: fails, its events are kept: OSError: no space left") == 2


def test_the_backlog_is_bounded_and_counts_what_it_drops(
    lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(fail)
    line = Line(sink, backlog=10)
    lines.append(line)
    (worker,) = line.pump.sink_workers
    line.publish(4)
    wait_for(lambda: worker.errors)
    expected = line.publish(20)
    wait_for(lambda: not len(line.queue) and worker.pending == 10)
    wait_for(lambda: worker.dropped == 14)
    tries = len(sink.tries)
    wait_for(lambda: len(sink.tries) >= tries + 2)
    assert (worker.pending, worker.dropped) == (10, 14)
    assert "its oldest events are dropped" in caplog.text
    sink.trouble = lambda: None
    wait_for(lambda: len(sink.lines) == 10)
    assert names(sink.lines) == expected[-10:]  # the newest are kept


def test_an_event_that_cannot_be_encoded_affects_no_other(
    lines: list[Line], caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    line = Line(sink)
    lines.append(line)
    line.queue.publish(event("bad", metadata={"model": "\ud800"}))
    line.publish(1)
    wait_for(lambda: sink.lines)
    line.publish(1)
    wait_for(lambda: len(sink.lines) == 2)
    assert names(sink.lines) == ["0", "1"]
    line.pump.close(1)
    assert "1 usage events could not be written" in caplog.text


def test_close_writes_what_is_left_and_closes_the_sinks(caplog: pytest.LogCaptureFixture) -> None:
    sinks = [Sink(lambda: block(0.01)), Sink()]
    line = Line(*sinks)
    expected = line.publish(2000)  # still in the queue
    line.pump.close(5)
    assert [names(sink.lines) for sink in sinks] == [expected, expected]
    assert [sink.closed for sink in sinks] == [1, 1]
    assert caplog.records == []


def test_close_ends_a_pause_for_a_last_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery_module, "_MIN_PAUSE_SECONDS", 30.0)
    monkeypatch.setattr(delivery_module, "_MAX_PAUSE_SECONDS", 30.0)
    sink = Sink(fail)
    line = Line(sink)
    expected = line.publish(3)
    wait_for(lambda: line.pump.sink_workers[0].errors)
    sink.trouble = lambda: None
    began = time.monotonic()
    line.pump.close(10)
    assert time.monotonic() - began < 5
    assert names(sink.lines) == expected


def test_close_gives_up_on_a_sink_that_still_fails(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Sink(fail), Sink()
    line = Line(bad, good)
    expected = line.publish(3)
    line.pump.close(5)
    assert names(good.lines) == expected
    assert (bad.closed, good.closed) == (1, 1)
    assert "3 usage events could not be written" in caplog.text


@pytest.mark.slow
def test_close_returns_in_time_although_a_sink_hangs(caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Sink(lambda: block(0.8)), Sink()
    line = Line(bad, good)
    line.publish(3)
    wait_for(lambda: bad.tries)
    expected = line.publish(4)
    began = time.monotonic()
    line.pump.close(0.1)
    assert time.monotonic() - began < 0.6
    assert names(good.lines) == expected
    # Lines being written count too: it is unknown whether the sink accepts them.
    assert "7 usage events could not be written" in caplog.text
    wait_for(lambda: bad.closed)


def test_a_sink_whose_close_raises_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.close = fail  # type: ignore[method-assign]
    Line(sink).pump.close(5)
    assert "could not be closed" in caplog.text


def journal_at(root: Path) -> SpoolWriter:
    return SpoolWriter(
        SpoolSettings(
            root=root,
            sinks=frozenset({LOCAL, "redis"}),
            max_bytes=1024 * 1024,
            fsync_interval=1.0,
            slots=5000,
        )
    )


class SpooledLine(Line):
    """The same with a spool that a remote sink reads."""

    def __init__(
        self, root: Path, *sinks: Any, backlog: int = 10_000, refuse: bool = False
    ) -> None:
        self.queue = EventQueue(100_000)
        self.spool_writer = journal_at(root)
        self.pump = EventPump(
            self.queue,
            sinks,
            backlog=backlog,
            spool_writer=self.spool_writer,
            refuse_when_full=refuse,
        )
        self._next = 0

    def publish(self, count: int) -> list[str]:
        for _ in range(count):
            name = str(self._next)
            ids = (name.rjust(32, "0"), 1.5, name, "p", "t", "sk-a...b")
            slot = self.queue.record_intent(Intent(*ids, "/v1/models", "GET", "::1"))
            self.queue.publish(event(name, event_id=ids[0], slot=slot))
            self._next += 1
        return [str(number) for number in range(self._next)]

    @property
    def open_slots(self) -> int:
        assert self.queue.inflight_table is not None
        return self.queue.inflight_table.open


def spooled(root: Path, sink: str) -> list[str]:
    """The lines that ``sink`` would read next, over all folders."""
    batches = [
        read_batch(folder, read_offset(folder, sink), max_lines=10_000)
        for folder in writer_folders(root)
    ]
    return names([line for batch in batches for line in batch.lines])


def test_spooled_events_release_their_slots(tmp_path: Path) -> None:
    sink = Sink()
    line = SpooledLine(tmp_path, sink)
    expected = line.publish(1300)
    assert line.open_slots == 1300
    wait_for(lambda: len(sink.lines) == 1300)
    assert line.open_slots == 0
    assert spooled(tmp_path, "redis") == names(sink.lines) == expected
    line.pump.close(5)
    assert spooled(tmp_path, "redis") == expected
    assert spooled(tmp_path, LOCAL) == []


@pytest.mark.slow
def test_the_local_offset_follows_the_slowest_sink(tmp_path: Path) -> None:
    fast, slow = Sink(), Sink(fail)
    line = SpooledLine(tmp_path, fast, slow)
    line.publish(3)
    wait_for(lambda: len(fast.lines) == 3 and slow.tries)
    line.publish(1)
    wait_for(lambda: len(fast.lines) == 4)
    assert spooled(tmp_path, LOCAL) == ["0", "1", "2", "3"]
    slow.trouble = lambda: None
    wait_for(lambda: len(slow.lines) == 4)
    line.publish(1)  # the offset is saved with the next batch
    wait_for(lambda: spooled(tmp_path, LOCAL) == ["4"])
    wait_for(lambda: spooled(tmp_path, LOCAL) == [])  # or within a second
    line.pump.close(5)


def test_events_that_the_local_sink_lacks_wait_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = Sink(fail)
    line = SpooledLine(tmp_path, bad)
    expected = line.publish(3)
    line.pump.close(1)
    assert "3 usage events wait in the spool for the next start" in caplog.text
    assert "could not be written" not in caplog.text
    good = Sink()
    line = SpooledLine(tmp_path, good)
    wait_for(lambda: len(good.lines) == 3)
    assert names(good.lines) == expected
    line.pump.close(5)


def full(*_: Any) -> None:
    raise NotSpooled(0, OSError(28, "No space left on device"))


def test_events_that_a_full_disk_did_not_accept_keep_their_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "_RETRY_SECONDS", 0.01)
    sink = Sink()
    line = SpooledLine(tmp_path, sink)
    append = SegmentWriter.append
    tries: list[int] = []

    def two_fit(writer: SegmentWriter, records: Sequence[bytes]) -> None:
        tries.append(len(records))
        append(writer, records[:2])
        raise NotSpooled(2, OSError(28, "No space left on device"))

    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "append", two_fit)
        line.publish(5)
        wait_for(lambda: len(sink.lines) == 5)
        wait_for(lambda: tries[:2] == [5, 3])
        patch.setattr(SegmentWriter, "append", full)
        wait_for(lambda: line.pump.kept == line.open_slots > 0)
        expected = line.publish(5)
        wait_for(lambda: len(sink.lines) == 10)
        assert line.pump.kept == line.open_slots == 5 + 5 - 2 * len(tries)
        # A killed worker's next start finds them.
        (folder,) = writer_folders(tmp_path)
        left = names([decode_record(record) or b"" for record in leftover_records(folder)[0]])
        assert sorted(left) == expected[2 * len(tries) :]
    wait_for(lambda: not line.pump.kept)  # without any event that would bring it about
    assert line.open_slots == 0
    assert spooled(tmp_path, "redis") == expected
    assert line.spool_writer.unspooled == 0
    line.pump.close(5)
    assert names(sink.lines) == expected


def test_kept_events_are_bounded_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "_RETRY_SECONDS", 0.01)
    sink = Sink()
    line = SpooledLine(tmp_path, sink, backlog=7)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "append", full)
        for count in (5, 10, 15):
            expected = line.publish(5)
            wait_for(lambda count=count: len(sink.lines) == count)
        wait_for(lambda: line.spool_writer.unspooled == 8)
        assert line.pump.kept == line.open_slots == 7
        assert not line.queue.gate.closed
    wait_for(lambda: not line.pump.kept)
    assert spooled(tmp_path, "redis") == expected[:7]
    assert (line.spool_writer.unspooled, line.open_slots) == (8, 0)
    line.pump.close(5)


def test_requests_are_refused_while_the_disk_is_full_if_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump_module, "_RETRY_SECONDS", 0.01)
    line = SpooledLine(tmp_path, refuse=True)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "append", full)
        line.publish(1)
        wait_for(lambda: line.queue.gate.closed)
        with pytest.raises(ProxyError, match="disk for usage events is full"):
            line.queue.gate.wait_for_room()
    wait_for(lambda: not line.queue.gate.closed)
    line.queue.gate.wait_for_room()
    line.pump.close(5)


def test_a_stop_with_a_full_disk_keeps_the_slots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink()
    line = SpooledLine(tmp_path, sink)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "append", full)
        line.publish(3)
        wait_for(lambda: line.pump.kept == 3)
        expected = line.publish(2)
        line.pump.close(5)
    assert names(sink.lines) == expected
    (folder,) = writer_folders(tmp_path)
    left = names([decode_record(record) or b"" for record in leftover_records(folder)[0]])
    assert sorted(left) == expected
    assert "could not be written" not in caplog.text


def test_a_full_disk_does_not_keep_events_from_the_local_sink(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = Sink()
    line = SpooledLine(tmp_path, sink)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentWriter, "append", full)
        for count in (10, 20, 30):
            line.publish(10)
            wait_for(lambda count=count: len(sink.lines) == count)
    expected = line.publish(10)
    wait_for(lambda: len(sink.lines) == 40)
    line.pump.close(5)
    assert names(sink.lines) == expected
    assert spooled(tmp_path, "redis") == expected
    assert caplog.text.count("cannot be written: NotSpooled: [Errno 28] No space left") == 1
    assert " 0 events are not in it" in caplog.text


def test_a_hanging_disk_does_not_block_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local sink has the events by then, and their slots keep them for the others."""
    sink = Sink()
    line = SpooledLine(tmp_path, sink)
    append = SegmentWriter.append

    def hang(*args: Any) -> Any:
        block(2.0)
        return append(*args)

    monkeypatch.setattr(SegmentWriter, "append", hang)
    expected = line.publish(3)
    wait_for(lambda: not len(line.queue))
    expected = line.publish(2)
    began = time.monotonic()
    line.pump.close(0.5)
    assert time.monotonic() - began < 1.5
    assert set(names(sink.lines)) == set(expected)
    assert line.open_slots == 5
    (folder,) = writer_folders(tmp_path)
    assert len(leftover_records(folder)[0]) == 5


def test_maintenance_continues_after_failures_and_logs_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []

    def broken(*_: Any) -> None:
        tries.append(1)
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(pump_module, "_MAINTAIN_INTERVAL_SECONDS", 0.01)
    sink = Sink()
    line = SpooledLine(tmp_path, sink)
    with monkeypatch.context() as patch:
        patch.setattr(SpoolWriter, "maintain", broken)
        wait_for(lambda: len(tries) >= 3)
    assert caplog.text.count("cannot be maintained") == 1
    line.publish(1)
    wait_for(lambda: sink.lines)
    wait_for(lambda: not spooled(tmp_path, LOCAL))  # maintenance writes the offset
    line.pump.close(5)


def test_a_stop_within_a_batch_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = SegmentWriter.append

    def slow(*args: Any) -> Any:
        block(0.1)
        return append(*args)

    monkeypatch.setattr(SegmentWriter, "append", slow)
    for pause in (0.0, 0.01, 0.03, 0.06):
        root, sink = tmp_path / str(pause), Sink()
        line = SpooledLine(root, sink)
        line.publish(3)
        gevent.sleep(pause)
        expected = line.publish(3)
        line.pump.close(5)
        assert names(sink.lines) == spooled(root, "redis") == expected
        assert line.open_slots == 0


HANGING = """
from gevent import monkey; monkey.patch_all()
from proxy.events.pump import EventPump
from proxy.events.spool.retention import LOCAL, writer_folders
from proxy.events.spool.inflight_table import leftover_records
from proxy.events.spool.writer import SpoolWriter, SpoolSettings
from proxy.events.spool.offsets import read_offset
from proxy.events.queue import EventQueue
from tests.support.event_samples import Sink, block, event, wait_for
queue, sink = EventQueue(10), Sink(lambda: block(60))
pump = EventPump(queue, [sink], backlog=10)
queue.publish(event())
wait_for(lambda: sink.tries)
pump.close(0.1)
"""


def test_a_hanging_sink_does_not_keep_the_process_alive() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=ROOT, timeout=20, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"1 usage events could not be written" in done.stderr


@pytest.mark.slow
def test_the_observer_sees_each_event_once() -> None:
    queue, seen = EventQueue(10_000), []
    pump = EventPump(
        queue,
        [Sink()],
        backlog=10,
        observe=lambda events: seen.extend(e.request_id for e in events),
    )
    for number in range(700):
        queue.publish(event(str(number)))
    wait_for(lambda: len(seen) == 700)
    queue.publish(event("last"))
    pump.close(1)
    assert seen == [*map(str, range(700)), "last"]
