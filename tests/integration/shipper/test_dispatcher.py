"""From a real Redis stream to a sink (``proxy/shipper/dispatcher.py``)."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from uuid import uuid4

import pytest
import redis

from proxy.events.sinks.redis import FIELD, RedisSink
from proxy.runtime.backoff import Backoff
from proxy.shipper import dispatcher as dispatcher_module
from proxy.shipper.dispatcher import Dispatcher
from proxy.shipper.redis_group import ConsumerGroup, StreamDeadLetters
from tests.support import fault_proxy
from tests.support.services import RedisServer
from tests.support.wait import wait_until


class Target:
    """A sink that stores its batches. ``trouble`` is called with each batch first."""

    def __init__(self) -> None:
        self.trouble: Callable[[Sequence[bytes]], None] = lambda _batch: None
        self.lines: list[bytes] = []
        self.tries = 0
        self.closed = False

    def write(self, batch: Sequence[bytes]) -> None:
        self.tries += 1
        self.trouble(batch)
        self.lines.extend(batch)

    def close(self) -> None:
        self.closed = True


class Bench:
    """A stream, and dispatchers that run on threads."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.stream = f"events-{uuid4()}"
        self.running: list[tuple[Dispatcher, threading.Thread]] = []

    def add(self, *names: str) -> None:
        sink = RedisSink(self.server.url, self.stream, max_length=100_000)
        sink.write([f"{name}\n".encode() for name in names])
        sink.close()

    def start(
        self,
        target: Target,
        *,
        group: str = "g",
        consumer: str = "one",
        url: str = "",
        max_tries: int = 3,
        claim_idle: float = 60,
    ) -> Dispatcher:
        source = ConsumerGroup(url or self.server.url, self.stream, group, consumer)
        made = Dispatcher(
            source,
            target,
            StreamDeadLetters(source),
            max_tries=max_tries,
            claim_idle=claim_idle,
            backoff=Backoff(0.01, 0.05),
        )
        thread = threading.Thread(target=made.run)
        thread.start()
        self.running.append((made, thread))
        return made

    def stop(self) -> None:
        running, self.running = self.running, []
        for dispatcher, _ in running:
            dispatcher.stop()
        for _, thread in running:
            thread.join(20)
            assert not thread.is_alive()

    def pending(self, group: str = "g") -> int:
        """Entries that are not acknowledged; -1 without the group."""
        with self.server.client() as client:
            try:
                return int(client.xpending(self.stream, group)["pending"])
            except redis.ResponseError:
                return -1

    def dead(self) -> list[str]:
        with self.server.client() as client:
            return [fields[FIELD] for _, fields in client.xrange(f"{self.stream}-dead")]


@pytest.fixture
def bench(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(dispatcher_module, "_WAIT_SECONDS", 0.05)
    made = Bench(redis_server)
    yield made
    made.stop()


def fail(_batch: Sequence[bytes]) -> None:
    raise ConnectionError


def test_events_arrive_and_are_acknowledged(bench: Bench) -> None:
    target = Target()
    bench.add("a", "b")
    dispatcher = bench.start(target)
    wait_until(lambda: dispatcher.delivered == 2)
    bench.add("c")
    wait_until(lambda: bench.pending() == 0 and dispatcher.delivered == 3)
    assert target.lines == [b"a\n", b"b\n", b"c\n"]
    assert dispatcher.trouble is None
    bench.stop()
    assert target.closed


def test_entries_are_acknowledged_after_the_sink_has_accepted_them(bench: Bench) -> None:
    target = Target()
    target.trouble = fail
    bench.add("a", "b")
    dispatcher = bench.start(target)
    wait_until(lambda: target.tries > 10)
    assert bench.pending() == 2
    assert dispatcher.trouble == "sink: ConnectionError"
    assert bench.dead() == []  # the sink is away, so no event is at fault
    target.trouble = lambda _batch: None
    wait_until(lambda: bench.pending() == 0)
    assert sorted(target.lines) == [b"a\n", b"b\n"]


def test_entries_held_by_a_killed_dispatcher_come_first(bench: Bench) -> None:
    bench.add("a", "b")
    source = ConsumerGroup(bench.server.url, bench.stream, "g", "one")
    source.create()
    assert len(source.new(10, 0)) == 2  # and then it is killed
    bench.add("c")
    target = Target()
    bench.start(target)
    wait_until(lambda: len(target.lines) == 3)
    assert target.lines == [b"a\n", b"b\n", b"c\n"]


def test_entries_held_by_another_dispatcher_are_claimed(bench: Bench) -> None:
    bench.add("a", "b")
    source = ConsumerGroup(bench.server.url, bench.stream, "g", "gone")
    source.create()
    assert len(source.new(10, 0)) == 2
    target = Target()
    bench.start(target, claim_idle=0.05)
    wait_until(lambda: sorted(target.lines) == [b"a\n", b"b\n"])
    wait_until(lambda: bench.pending() == 0)


def test_an_entry_that_kills_its_dispatchers_becomes_a_dead_letter(bench: Bench) -> None:
    bench.add("killer")
    for _ in range(4):
        source = ConsumerGroup(bench.server.url, bench.stream, "g", "one")
        source.create()
        source.new(10, 0)
        source.pending(10)
    bench.add("a")
    target = Target()
    bench.start(target, max_tries=4)
    wait_until(lambda: bench.dead() == ["killer"] and bench.pending() == 0)
    wait_until(lambda: target.lines == [b"a\n"])


def test_a_sink_away_over_many_starts_makes_no_dead_letter(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_BATCH", 4)
    target = Target()
    target.trouble = fail
    names = [str(number) for number in range(6)]
    bench.add(*names)
    for _ in range(5):
        bench.start(target, max_tries=3)
        seen = target.tries
        wait_until(lambda: target.tries > seen + 10)  # noqa: B023
        bench.stop()
    assert bench.dead() == []
    assert bench.pending() == 4
    target.trouble = lambda _batch: None
    bench.start(target, max_tries=3)
    wait_until(lambda: bench.pending() == 0 and len(target.lines) == 6)
    assert target.lines == [f"{name}\n".encode() for name in names]


def test_reading_held_entries_counts_one_delivery(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when the entries fill more than one batch and the sink is away."""
    monkeypatch.setattr(dispatcher_module, "_BATCH", 4)
    bench.add(*"abcdef")
    source = ConsumerGroup(bench.server.url, bench.stream, "g", "one")
    source.create()
    assert len(source.new(10, 0)) == 6  # and then it is killed
    target = Target()
    target.trouble = fail
    bench.start(target)
    wait_until(lambda: target.tries > 20)
    with bench.server.client() as client:
        found = client.xpending_range(bench.stream, "g", "-", "+", 10)
    assert [item["times_delivered"] for item in found] == [2, 2, 2, 2, 1, 1]
    target.trouble = lambda _batch: None
    wait_until(lambda: bench.pending() == 0)
    assert target.lines == [b"a\n", b"b\n", b"c\n", b"d\n", b"e\n", b"f\n"]


def test_an_entry_that_is_never_accepted_becomes_a_dead_letter_when_others_are(
    bench: Bench,
) -> None:
    target = Target()

    def trouble(batch: Sequence[bytes]) -> None:
        if b"bad\n" in batch:
            raise RuntimeError

    target.trouble = trouble
    bench.add("bad")
    dispatcher = bench.start(target)
    wait_until(lambda: target.tries > 6)
    assert bench.dead() == []  # not decided yet
    bench.add(*"abcd")
    wait_until(lambda: bench.dead() == ["bad"])
    wait_until(lambda: bench.pending() == 0)
    assert sorted(target.lines) == [b"a\n", b"b\n", b"c\n", b"d\n"]
    wait_until(lambda: dispatcher.trouble is None)


def test_a_sink_that_goes_away_within_a_batch_makes_no_dead_letter(bench: Bench) -> None:
    """The sink accepts single events and then fails: entries after the last success are kept."""
    target = Target()
    names = [str(number) for number in range(20)]

    def trouble(batch: Sequence[bytes]) -> None:
        if len(batch) > 1 or len(target.lines) >= 5:
            raise ConnectionError

    target.trouble = trouble
    bench.add(*names)
    bench.start(target)
    wait_until(lambda: len(target.lines) == 5)
    seen = target.tries
    wait_until(lambda: target.tries > seen + 30)
    assert bench.dead() == []
    target.trouble = lambda _batch: None
    wait_until(lambda: bench.pending() == 0)
    assert sorted(target.lines) == sorted(f"{name}\n".encode() for name in names)


def test_a_group_shares_and_groups_do_not(bench: Bench) -> None:
    targets = [Target(), Target(), Target()]
    bench.start(targets[0], consumer="one")
    bench.start(targets[1], consumer="two")
    bench.start(targets[2], group="other")
    names = [str(number) for number in range(2000)]
    for start in range(0, 2000, 50):
        bench.add(*names[start : start + 50])
    everything = sorted(f"{name}\n".encode() for name in names)
    wait_until(lambda: len(targets[0].lines) + len(targets[1].lines) >= 2000)
    wait_until(lambda: len(targets[2].lines) >= 2000)
    assert sorted(targets[0].lines + targets[1].lines) == everything
    assert sorted(targets[2].lines) == everything


def test_delivery_continues_when_redis_is_back(bench: Bench) -> None:
    between = fault_proxy.Middleman(bench.server.port)
    target = Target()
    dispatcher = bench.start(
        target, url=bench.server.url.replace(str(bench.server.port), str(between.port))
    )
    bench.add("a")
    wait_until(lambda: target.lines == [b"a\n"])
    for trouble in (fault_proxy.refused, fault_proxy.answer_lost, fault_proxy.cut_after(200)):
        between.meet(trouble)
        bench.add("b")
        wait_until(lambda: dispatcher.trouble is not None)
        assert dispatcher.trouble is not None
        assert dispatcher.trouble.startswith("Redis: ")
        between.meet(None)
        wait_until(lambda: dispatcher.trouble is None)
    assert dispatcher.errors
    bench.stop()
    between.close()


def test_a_flushed_redis_gets_a_new_group(bench: Bench) -> None:
    target = Target()
    dispatcher = bench.start(target)
    bench.add("a")
    wait_until(lambda: target.lines == [b"a\n"])
    with bench.server.client() as client:
        client.delete(bench.stream)
    wait_until(lambda: dispatcher.errors > 0)
    bench.add("b")
    wait_until(lambda: target.lines == [b"a\n", b"b\n"])


def test_metrics(bench: Bench) -> None:
    target = Target()
    dispatcher = bench.start(target)
    bench.add("a", "b")
    wait_until(lambda: dispatcher.delivered == 2)
    text = dispatcher.metrics()
    assert "# TYPE proxy_dispatcher_delivered_total counter\n" in text
    assert "\nproxy_dispatcher_delivered_total 2\n" in text
    assert "\nproxy_dispatcher_lag_events 0\n" in text
    assert "\nproxy_dispatcher_ready 1\n" in text


def test_no_event_is_lost_whatever_fails(bench: Bench) -> None:
    """Sink and Redis fail at random: each event arrives or becomes a dead letter."""
    source = random.Random(7)
    between = fault_proxy.Middleman(bench.server.port)
    url = bench.server.url.replace(str(bench.server.port), str(between.port))
    target = Target()

    def trouble(batch: Sequence[bytes]) -> None:
        if source.random() < 0.3:
            raise ConnectionError

    target.trouble = trouble
    bench.start(target, url=url, consumer="one", claim_idle=0.2)
    bench.start(target, url=url, consumer="two", claim_idle=0.2)
    names = [str(number) for number in range(1000)]
    for start in range(0, 1000, 20):
        bench.add(*names[start : start + 20])
        between.meet(source.choice([None, None, fault_proxy.cut_after(source.randint(50, 2000))]))
    between.meet(None)
    expected = {f"{name}\n".encode() for name in names}
    wait_until(
        lambda: (
            bench.pending() == 0
            and set(target.lines) | {f"{name}\n".encode() for name in bench.dead()} == expected
        )
    )
    between.close()
