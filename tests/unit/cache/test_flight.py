"""One upstream response and its readers (``proxy/cache/flight.py``)."""

import gc
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.fetched import Fetched, NoResponse
from proxy.cache.flight import (
    MERGED_BYTES,
    Abandoned,
    Flight,
    FlightReader,
    FlightRoom,
    ReaderCut,
)
from proxy.core.errors import (
    ConnectFailed,
    ProxyError,
    QuotaExceeded,
    ResponseBroken,
    UpstreamError,
    UpstreamTimeout,
)
from tests.support.scripted_source import END, Recorder, ScriptedSource, body, fetched, settle

#: What one chunk of a byte costs a flight.
ONE = 65


class Flown:
    """A flight, and all that is known of its end."""

    def __init__(
        self,
        source: ScriptedSource | None = None,
        *,
        choice: Abandoned = Abandoned.CANCEL,
        limit: int = 1 << 20,
        room: int = 1 << 26,
        fetch: Callable[[], Fetched] | None = None,
        shareable: bool = True,
        adoptable_head: bool = True,
        shared: bool = True,
        adoptable: bool = False,
        on_end: Sequence[Callable[[Flight], object]] = (),
    ) -> None:
        self.source = source or ScriptedSource()
        self.seen = Recorder()
        self.room = FlightRoom(room)
        self.choice = choice
        self.asked = 0
        self.ends: list[bool] = []
        self.flight = Flight(self.room, limit=limit, shared=shared)
        self.owner = self.flight.open()
        self.flight.start(
            fetch
            or (
                lambda: fetched(
                    self.source, self.seen, shareable=shareable, adoptable=adoptable_head
                )
            ),
            adoptable=adoptable,
            on_end=on_end or [lambda flight: self.ends.append(flight.complete)],
            on_abandoned=self._abandoned,
        )

    def _abandoned(self, _: Flight) -> Abandoned:
        self.asked += 1
        return self.choice

    def over(self) -> None:
        assert self.flight.wait_until_over(20)


def chunks(reader: FlightReader) -> list[bytes]:
    found = []
    while chunk := reader.read():
        found.append(chunk)
    return found


def all_of(*jobs: gevent.Greenlet) -> list[Any]:
    assert len(gevent.joinall(jobs, timeout=20)) == len(jobs), "somebody hangs"
    return [job.get() for job in jobs]


def test_one_reader_gets_the_response_as_it_is() -> None:
    flown = Flown(ScriptedSource(b"a", b"b", b"c", END))
    head = flown.owner.head()
    assert head is not None
    assert (head.status, head.reason) == (200, "OK")
    assert chunks(flown.owner) == [b"a", b"b", b"c"]
    assert flown.owner.complete
    flown.over()
    assert (flown.seen.chunks, flown.seen.ends) == ([b"a", b"b", b"c"], [True])
    assert (flown.ends, flown.source.closed) == ([True], 1)
    flown.owner.close()
    assert (flown.asked, flown.room.used, len(flown.room)) == (0, 0, 0)


@pytest.mark.parametrize("at_end", [True, False])
def test_a_head_says_whether_it_can_be_joined_at_its_end(at_end: bool) -> None:
    source, storing = ScriptedSource(b"a", b"b", END), Event()

    def fetch() -> Fetched:
        found = fetched(source)
        return found._replace(head=replace(found.head, joinable_at_end=at_end))

    flown = Flown(fetch=fetch, on_end=[lambda _: storing.wait(20)])
    flown.owner.head()
    assert flown.flight.joinable
    early = flown.flight.join()
    assert body(flown.owner) == b"ab"
    assert flown.flight.ended
    assert flown.flight.joinable == at_end
    assert body(early) == b"ab"
    storing.set()
    flown.over()


def test_the_last_chunk_is_known_to_be_the_last() -> None:
    flown = Flown(ScriptedSource(b"a", b"b", last=2))
    assert flown.owner.read() == b"a"
    assert not flown.owner.complete
    assert flown.owner.read() == b"b"
    assert flown.owner.complete
    flown.over()
    assert flown.source.reads == 2


def test_a_body_that_came_with_the_head_goes_out_with_it() -> None:
    flown = Flown(ScriptedSource(b"a", last=1))
    flown.owner.head()
    assert flown.owner.ready
    late = Flown()
    late.owner.head()
    assert not late.owner.ready
    late.owner.close()


def test_all_readers_get_all_of_it_from_one_call() -> None:
    calls = []
    source = ScriptedSource()

    def fetch() -> Fetched:
        calls.append(1)
        return fetched(source)

    flown = Flown(fetch=fetch)
    jobs = [gevent.spawn(body, flown.owner)]
    jobs += [gevent.spawn(body, flown.flight.join()) for _ in range(500)]
    for number in range(10):
        source.put(b"%d" % number)
        settle()
    source.put(END)
    assert all_of(*jobs) == [b"0123456789"] * 501
    assert (len(calls), source.reads) == (1, 11)


def test_a_late_reader_gets_what_was_so_far_in_large_chunks_then_what_comes() -> None:
    size = MERGED_BYTES // 4
    flown = Flown(choice=Abandoned.DRAIN)
    for number in range(6):
        flown.source.put(bytes([number]) * size)
        assert len(flown.owner.read()) == size
    late = flown.flight.join()
    assert late.head() is not None
    assert [len(late.read()), len(late.read())] == [4 * size, 2 * size]
    job = gevent.spawn(late.read)
    flown.source.put(b"live")
    assert all_of(job) == [b"live"]
    assert flown.owner.read() == b"live"
    flown.source.put(END)
    assert (late.read(), flown.owner.read()) == (b"", b"")
    flown.over()
    assert len(flown.seen.chunks) == 7


def test_a_chunk_that_is_larger_than_a_merged_one_stays_whole() -> None:
    flown = Flown(ScriptedSource(b"a", b"b" * (MERGED_BYTES + 1), b"c"), limit=1 << 30)
    flown.choice = Abandoned.DRAIN
    flown.owner.close()
    while flown.source.reads < 4:
        gevent.sleep(0)
    late = flown.flight.join()
    flown.source.put(END)
    assert [len(chunk) for chunk in chunks(late)] == [1, MERGED_BYTES + 1, 1]


def test_the_pump_is_one_chunk_ahead_of_the_fastest_reader() -> None:
    flown = Flown(ScriptedSource(*[b"x"] * 50, END))
    slow = flown.flight.join()
    settle()
    assert flown.source.reads == 1
    for number in range(2, 10):
        assert flown.owner.read() == b"x"
        settle()
        assert flown.source.reads == number
    assert slow.read() == b"x" * 9
    flown.owner.close()
    slow.close()
    flown.over()


def test_the_first_client_leaves_and_nothing_happens() -> None:
    flown = Flown(ScriptedSource(b"a"))
    other = flown.flight.join()
    assert flown.owner.read() == b"a"
    flown.owner.close()
    flown.owner.close()
    flown.source.put(b"b", END)
    assert body(other) == b"ab"
    flown.over()
    assert (flown.asked, flown.seen.ends) == (0, [True])


@pytest.mark.parametrize("before_head", [True, False])
def test_the_last_reader_leaves_and_the_call_is_cancelled(before_head: bool) -> None:
    reached = Event()
    source = ScriptedSource(b"a")

    def fetch() -> Fetched:
        reached.set()
        if before_head:
            Event().wait()
        return fetched(source)

    flown = Flown(fetch=fetch)
    assert reached.wait(20)
    other = flown.flight.join()
    settle()
    flown.owner.close()
    other.close()
    assert not flown.flight.joinable
    flown.over()
    assert (flown.asked, flown.ends) == (1, [False])
    assert source.closed == (0 if before_head else 1)
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_a_flight_that_is_stopped_before_it_starts_has_its_end_too() -> None:
    flown = Flown()
    flown.owner.close()
    flown.over()
    assert (flown.ends, flown.source.reads) == ([False], 0)


def test_the_rest_is_read_for_the_observers() -> None:
    flown = Flown(ScriptedSource(b"a"), choice=Abandoned.DRAIN)
    assert flown.owner.read() == b"a"
    flown.owner.close()
    flown.source.put(b"b", b"c", END)
    flown.over()
    assert (flown.seen.chunks, flown.seen.ends) == ([b"a", b"b", b"c"], [True])
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_a_response_that_is_read_to_its_end_alone_can_be_joined_again() -> None:
    flown = Flown(ScriptedSource(b"a"), choice=Abandoned.DRAIN)
    flown.owner.close()
    settle()
    again = flown.flight.join()
    flown.source.put(b"b")
    assert again.read() + again.read() == b"ab"
    again.close()
    assert flown.asked == 2
    flown.source.put(END)
    flown.over()
    assert flown.seen.ends == [True]


def test_a_held_flight_is_taken_over_once_from_the_first_byte() -> None:
    flown = Flown(ScriptedSource(b"a"), choice=Abandoned.HOLD, shared=False, adoptable=True)
    assert not flown.flight.joinable
    assert flown.owner.read() == b"a"
    assert not flown.flight.can_be_adopted
    flown.owner.close()
    flown.source.put(b"b")
    settle()
    assert flown.flight.can_be_adopted
    retry = flown.flight.adopt()
    assert retry.owns
    flown.source.put(END)
    assert body(retry) == b"ab"
    assert not flown.flight.can_be_adopted
    retry.close()
    flown.over()
    assert flown.seen.ends == [True]
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_a_held_flight_that_was_taken_over_is_not_held_again() -> None:
    flown = Flown(ScriptedSource(b"a"), choice=Abandoned.HOLD, adoptable=True)
    flown.owner.close()
    flown.flight.adopt().close()
    flown.over()
    assert flown.seen.ends in ([], [False])
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_a_held_flight_stays_after_its_end_until_it_is_given_up() -> None:
    flown = Flown(ScriptedSource(b"a", b"b", END), choice=Abandoned.HOLD, adoptable=True)
    flown.owner.close()
    flown.over()
    assert flown.flight.can_be_adopted
    assert flown.room.used == 2 * ONE
    flown.flight.give_up()
    assert not flown.flight.can_be_adopted
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_a_client_that_leaves_a_response_that_has_ended_unread_is_held_too() -> None:
    flown = Flown(ScriptedSource(b"a", last=1), choice=Abandoned.HOLD, adoptable=True)
    flown.over()
    flown.owner.close()
    assert body(flown.flight.adopt()) == b"a"


def test_a_head_that_no_retry_may_have_is_not_held() -> None:
    flown = Flown(ScriptedSource(b"a"), choice=Abandoned.HOLD, adoptable=True, adoptable_head=False)
    flown.owner.head()
    flown.owner.close()
    assert not flown.flight.can_be_adopted
    flown.over()
    assert flown.ends == [False]


def test_a_hold_that_is_over_stops_the_call() -> None:
    flown = Flown(ScriptedSource(b"a"), choice=Abandoned.HOLD, adoptable=True)
    flown.owner.close()
    settle()
    flown.flight.give_up()
    flown.over()
    assert flown.seen.ends == [False]
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_a_failure_before_the_head_is_the_failure_of_all() -> None:
    def fetch() -> Fetched:
        gevent.sleep(0)
        raise ConnectFailed("no way", retry_after=3)

    flown = Flown(fetch=fetch)
    readers = [flown.flight.join() for _ in range(20)]

    def failure(reader: FlightReader) -> ConnectFailed:
        with pytest.raises(ConnectFailed, match="no way") as caught:
            reader.head()
        return caught.value

    errors = all_of(*(gevent.spawn(failure, reader) for reader in (flown.owner, *readers)))
    assert len({id(error) for error in errors}) == 21, "each reader has its own"
    assert errors[0].retry_after == 3
    waits = {error.retry_after for error in errors[1:]}
    assert waits <= set(range(3, 9))
    assert len(waits) > 1, "they do not all come back at once"
    flown.over()
    assert flown.ends == [False]


def test_a_refusal_is_passed_on_with_all_it_says() -> None:
    def fetch() -> Fetched:
        raise QuotaExceeded("spent")

    flown = Flown(fetch=fetch)
    with pytest.raises(QuotaExceeded, match="spent") as caught:
        flown.owner.head()
    assert caught.value.headers == (("x-should-retry", "false"),)
    assert caught.value.retry_after is None


def test_a_failure_in_the_body_breaks_all_off_behind_what_came() -> None:
    flown = Flown(ScriptedSource(b"a"))
    other = flown.flight.join()
    assert flown.owner.read() == b"a"
    flown.source.put(UpstreamTimeout())
    with pytest.raises(UpstreamTimeout):
        flown.owner.read()
    assert not flown.flight.joinable
    assert other.read() == b"a"
    with pytest.raises(UpstreamTimeout):
        other.read()
    assert not other.complete
    flown.over()
    assert (flown.seen.ends, flown.source.closed) == ([False], 1)


def test_a_defect_breaks_the_response_off(caplog: pytest.LogCaptureFixture) -> None:
    flown = Flown(ScriptedSource(b"a"))
    assert flown.owner.read() == b"a"
    flown.source.put(ZeroDivisionError())
    with pytest.raises(ResponseBroken):
        flown.owner.read()
    flown.over()
    assert "flight: the pump failed" in caplog.text


def test_a_private_response_lets_those_that_joined_go_at_once() -> None:
    sent = Event()
    source = ScriptedSource()

    def fetch() -> Fetched:
        sent.wait()
        return fetched(source, shareable=False)

    flown = Flown(fetch=fetch)
    jobs = [gevent.spawn(flown.flight.join().head) for _ in range(50)]
    settle()
    sent.set()
    assert all_of(*jobs) == [None] * 50, "not one after the other"
    assert flown.flight.readers == 1
    assert not flown.flight.joinable
    assert flown.owner.head() is not None
    source.put(b"a", END)
    assert body(flown.owner) == b"a"
    flown.over()


def test_a_private_response_whose_owner_has_left_is_abandoned() -> None:
    flown = Flown(ScriptedSource(b"a"), shareable=False)
    other = flown.flight.join()
    flown.owner.close()
    assert other.head() is None
    flown.over()
    assert (flown.asked, flown.ends) == (1, [False])


def test_without_a_response_all_go_their_own_way() -> None:
    def fetch() -> Fetched:
        gevent.sleep(0)
        raise NoResponse

    flown = Flown(fetch=fetch)
    jobs = [gevent.spawn(reader.head) for reader in (flown.owner, flown.flight.join())]
    assert all_of(*jobs) == [None, None]
    flown.over()
    assert (flown.asked, len(flown.room)) == (0, 0)


def test_who_joins_at_the_moment_of_the_end_gets_all_of_it() -> None:
    """resumable-stream#41, #47: a reader that came between the last chunk and the end hung."""
    stored = Event()
    flown = Flown(ScriptedSource(b"a", b"b", last=2), on_end=[lambda _: stored.wait()])
    assert body(flown.owner) == b"ab", "the owner does not wait for the store"
    flown.owner.close()
    assert flown.flight.complete
    late = flown.flight.join()
    assert body(late) == b"ab"
    later = flown.flight.join()
    stored.set()
    flown.over()
    assert body(later) == b"ab", "and who came before it was over reads on"
    assert not flown.flight.joinable
    for reader in (late, later):
        reader.close()
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_the_callbacks_of_the_end_run_once_each_in_their_order_whatever_one_does() -> None:
    called = []

    def broken(_: Flight) -> None:
        called.append("first")
        raise ZeroDivisionError

    flown = Flown(ScriptedSource(END), on_end=[broken, lambda _: called.append("second")])
    flown.over()
    assert called == ["first", "second"]


def test_a_stop_behind_the_last_chunk_does_nothing() -> None:
    """Late writes after an abort (claude-code-hub#1370)."""
    stored = Event()
    flown = Flown(ScriptedSource(b"a", last=1), on_end=[lambda _: stored.wait()])
    settle()
    flown.flight.stop()
    settle()
    assert flown.flight.joinable
    stored.set()
    flown.over()
    assert flown.flight.complete
    assert flown.seen.ends == [True]


def test_a_stop_gives_the_readers_its_error() -> None:
    flown = Flown(ScriptedSource(b"a"))
    flown.owner.read()
    flown.flight.stop(UpstreamTimeout("stopped"))
    with pytest.raises(UpstreamTimeout, match="stopped"):
        flown.owner.read()
    flown.over()


def test_a_chunk_goes_to_the_readers_before_the_observers_work_on_it() -> None:
    order: list[str] = []

    class Observer(Recorder):
        def feed(self, chunk: bytes) -> None:
            order.append("observed")

    def read(reader: FlightReader) -> None:
        while reader.read():
            order.append("read")

    source = ScriptedSource()
    flown = Flown(fetch=lambda: fetched(source, Observer()))
    jobs = [gevent.spawn(read, reader) for reader in (flown.owner, flown.flight.join())]
    settle()
    source.put(b"a")
    settle()
    assert order == ["read", "read", "observed"]
    source.put(END)
    all_of(*jobs)


def test_a_stop_right_behind_a_chunk_leaves_no_observer_without_it() -> None:
    flown = Flown()
    job = gevent.spawn(flown.owner.read)
    settle()
    flown.source.put(b"a")
    flown.flight.stop()
    assert all_of(job) == [b"a"]
    flown.over()
    assert (flown.seen.chunks, flown.seen.ends) == ([b"a"], [False])


def test_what_the_only_reader_has_read_of_a_response_that_has_ended_is_freed() -> None:
    size = MERGED_BYTES
    flown = Flown(choice=Abandoned.DRAIN)
    flown.owner.close()
    flown.source.put(*[b"x" * size] * 3)
    while flown.source.reads < 4:
        gevent.sleep(0)
    late = flown.flight.join()
    flown.source.put(END)
    flown.over()
    kept = [flown.room.used]
    while late.read():
        kept.append(flown.room.used)
    assert kept == [3 * (size + 64), 2 * (size + 64), size + 64, 0]


def test_what_stops_a_body_is_an_upstream_error_for_its_readers() -> None:
    """No other one is handled in the body: the response would end as if its client had left."""
    flown = Flown(ScriptedSource(b"a"))
    assert flown.owner.read() == b"a"
    assert flown.flight.is_busy
    flown.flight.stop(ProxyError("bye", code="draining", retry_after=1))
    with pytest.raises(UpstreamError, match="bye") as caught:
        flown.owner.read()
    assert caught.value.code == "draining"
    flown.over()
    assert flown.flight.is_busy
    flown.owner.close()
    assert not flown.flight.is_busy


def test_a_reader_that_is_interrupted_disturbs_nobody() -> None:
    """souin#703: a client that cancelled made two bodies of one."""
    flown = Flown()
    other = flown.flight.join()
    job = gevent.spawn(flown.owner.read)
    settle()
    job.kill()
    flown.owner.close()
    flown.source.put(b"a", END)
    assert body(other) == b"a"


def test_nothing_comes_in_time() -> None:
    flown = Flown()
    flown.owner.head()
    assert flown.owner.read_within(0.001) is None
    flown.source.put(b"a")
    assert flown.owner.read_within(20) == b"a"
    flown.source.put(END)
    assert flown.owner.read_within(20) == b""


def test_past_the_limit_nobody_joins_and_what_all_have_read_is_freed() -> None:
    flown = Flown(ScriptedSource(*[b"x"] * 40, END), limit=10 * ONE)
    for number in range(1, 12):
        flown.owner.read()
        settle()
        assert flown.flight.joinable == (number < 10)
    assert flown.room.used <= 2 * ONE
    assert body(flown.owner) == b"x" * 29
    flown.over()
    assert flown.seen.chunks == [b"x"] * 40


def test_a_reader_that_is_too_far_behind_is_cut_and_the_others_are_not_held_up() -> None:
    flown = Flown(ScriptedSource(*[b"x"] * 100, END), limit=10 * ONE)
    slow, slower = flown.flight.join(), flown.flight.join()
    for number in range(100):
        assert flown.owner.read() == b"x"
        if number == 5:
            slow.read()
        settle()
        assert flown.room.used <= 11 * ONE
    assert flown.owner.read() == b""
    for reader in (slow, slower):
        with pytest.raises(ReaderCut):
            reader.read()
        assert not reader.complete
        reader.close()
    flown.over()
    assert flown.seen.chunks == [b"x"] * 100
    flown.owner.close()
    assert (flown.room.used, len(flown.room)) == (0, 0)


def test_the_one_reader_that_is_left_is_waited_for() -> None:
    flown = Flown(ScriptedSource(*[b"x"] * 30, END), limit=10 * ONE)
    slow = flown.flight.join()
    for _ in range(8):
        flown.owner.read()
        settle()
    flown.owner.close()
    settle()
    reads = flown.source.reads
    settle()
    assert flown.source.reads == reads <= 10
    assert body(slow) == b"x" * 30
    flown.over()


def test_the_flights_of_a_worker_share_a_room() -> None:
    """200 detached flights stay under the bound (claude-code-hub#1413)."""
    room = FlightRoom(100 * ONE)
    flights = []
    for _ in range(200):
        source = ScriptedSource(*[b"x"] * 20, END)
        flight = Flight(room, limit=1 << 20)
        reader = flight.open()
        flight.start(
            partial(fetched, source), adoptable=True, on_abandoned=lambda _: Abandoned.HOLD
        )
        reader.close()
        flights.append(flight)
    most = 0
    for flight in flights:
        assert flight.wait_until_over(20)
        most = max(most, room.used)
    assert most <= 100 * ONE
    assert any(flight.can_be_adopted for flight in flights)
    for flight in flights:
        flight.give_up()
    assert (room.used, len(room)) == (0, 0)


def test_a_full_room_cuts_who_is_furthest_behind() -> None:
    room = FlightRoom(12 * ONE)
    flights = [Flight(room, limit=1 << 20) for _ in range(2)]
    owners = [flight.open() for flight in flights]
    for flight in flights:
        flight.start(partial(fetched, ScriptedSource(*[b"x"] * 10, END)))
    slow = [flight.join() for flight in flights]
    for number in range(9):
        for owner in owners:
            assert owner.read() == b"x"
        if number == 3:
            slow[1].read()
        settle()
    assert room.used <= 12 * ONE + 2 * ONE
    with pytest.raises(ReaderCut):
        slow[0].read()
    assert [body(owner) for owner in owners] == [b"x"] * 2
    assert slow[1].read()


NAME: ContextVar[str] = ContextVar("name", default="")


def test_the_pump_logs_as_the_request_that_began_it() -> None:
    seen = []

    def fetch() -> Fetched:
        seen.append(NAME.get())
        return fetched(ScriptedSource(END))

    NAME.set("first")
    flown = Flown(fetch=fetch)
    NAME.set("second")
    flown.over()
    assert seen == ["first"]


def test_a_thousand_joins_and_leaves_leave_nothing() -> None:
    """resumable-stream#48, #30: listeners that were dead stayed."""
    flown = Flown(ScriptedSource(b"a"))
    flown.owner.read()
    for number in range(1000):
        reader = flown.flight.join()
        job = gevent.spawn(body, reader)
        if number % 3 == 0:
            gevent.sleep(0)
        job.kill()
        reader.close()
    del reader, job
    assert flown.flight.readers == 1
    assert flown.room.used == ONE
    settle()
    gc.collect()
    alive = [one for one in gc.get_objects() if isinstance(one, FlightReader)]
    assert len([reader for reader in alive if reader.flight is flown.flight]) == 1
    del alive
    flown.source.put(END)
    flown.over()
    flight = weakref.ref(flown.flight)
    flown.owner.close()
    del flown
    settle()
    gc.collect()
    assert flight() is None


#: What may happen next: a chunk comes; a reader joins, reads, leaves, or reads on to the end.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["chunk", "join", "read", "leave", "stream", "turn"]), st.integers(0, 7)
    ),
    max_size=60,
)


class Schedule:
    """Runs the steps of an example, and checks what each reader got."""

    def __init__(self, limit: int) -> None:
        self.source = ScriptedSource()
        self.flown = Flown(self.source, limit=limit * ONE, choice=Abandoned.DRAIN)
        self.most = (limit + 1) * ONE
        #: Readers that wait for their next step, each with what it got.
        self.idle: list[tuple[FlightReader, list[bytes]]] = [(self.flown.owner, [])]
        self.busy: list[tuple[gevent.Greenlet, FlightReader, list[bytes]]] = []
        self.ends: dict[FlightReader, str] = {}
        self.sent = b""

    def run(self, action: str, number: int) -> None:
        if action == "chunk":
            self.chunk()
        elif action == "turn":
            settle()
            assert self.flown.room.used <= self.most
        elif action == "join":
            if self.flown.flight.joinable:
                self.idle.append((self.flown.flight.join(), []))
        elif self.idle:
            getattr(self, action)(*self.idle[number % len(self.idle)])

    def chunk(self) -> None:
        chunk = bytes([65 + len(self.sent) % 26])
        self.sent += chunk
        self.source.put(chunk)

    def read(self, reader: FlightReader, got: list[bytes]) -> None:
        if not reader.ready:
            return
        try:
            got.append(reader.read())
        except ReaderCut:
            self.idle.remove((reader, got))
            reader.close()

    def leave(self, reader: FlightReader, got: list[bytes]) -> None:
        self.idle.remove((reader, got))
        reader.close()

    def stream(self, reader: FlightReader, got: list[bytes]) -> None:
        self.idle.remove((reader, got))
        self.busy.append((gevent.spawn(self._read_on, reader, got), reader, got))

    def _read_on(self, reader: FlightReader, got: list[bytes]) -> None:
        try:
            while chunk := reader.read():
                got.append(chunk)
        except ReaderCut:
            self.ends[reader] = "cut"
        except UpstreamTimeout:
            self.ends[reader] = "broken"
        else:
            self.ends[reader] = "whole"

    def end(self, ending: str) -> None:
        if ending == "known end":
            self.source._last = len(self.sent) + 1
            self.chunk()
        else:
            self.source.put(UpstreamTimeout() if ending == "break" else END)
        for reader, got in list(self.idle):
            self.stream(reader, got)
        all_of(*(job for job, _, _ in self.busy))
        for _, reader, got in self.busy:
            received = b"".join(got)
            assert self.sent.startswith(received)
            if self.ends[reader] != "cut":
                assert received == self.sent
                assert self.ends[reader] == ("broken" if ending == "break" else "whole")
            assert reader.complete == (self.ends[reader] == "whole")
            reader.close()


@given(STEPS, st.sampled_from(["end", "known end", "break"]), st.sampled_from([3, 10, 1000]))
def test_every_reader_gets_the_whole_or_knows_that_it_does_not(
    steps: list[tuple[str, int]], ending: str, limit: int
) -> None:
    schedule = Schedule(limit)
    for action, number in steps:
        schedule.run(action, number)
    schedule.end(ending)
    flown = schedule.flown
    flown.over()
    assert flown.seen.ends == flown.ends == [ending != "break"]
    assert b"".join(flown.seen.chunks) == schedule.sent
    assert (flown.room.used, len(flown.room), flown.flight.readers) == (0, 0, 0)
