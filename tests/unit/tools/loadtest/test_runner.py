"""proxy/tools/loadtest/runner.py: as many at once as asked, as many in all as asked, and the rest
counted."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from proxy.tools.loadtest import runner as module
from proxy.tools.loadtest.connection import Address, Asked
from proxy.tools.loadtest.runner import Load
from proxy.tools.verify.raw_client import Endpoint
from tests.support.bench_server import OK, BenchServer, Serve, serve

__all__ = ["serve"]

Make = Callable[[BenchServer, int], Load]


@pytest.fixture
def load() -> Iterator[Make]:
    made: list[Load] = []

    def make(server: BenchServer, concurrency: int) -> Load:
        address = Address.of(Endpoint(server.url), "127.0.0.1")
        made.append(Load(Asked(address, "GET", b"GET / HTTP/1.1\r\n\r\n", False), concurrency))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_all_requests_on_kept_connections(serve: Serve, load: Make) -> None:
    server = serve([OK])
    one = load(server, 4)
    told: list[int] = []
    one.turn(50, told.append)
    one.turn(3, told.append)
    assert len(one.samples) == len(server.requests) == 53
    assert (one.connections, server.connections) == (4, 4)
    assert told[-1] == 3
    assert all(sample.succeeded for sample in one.samples)
    assert 0 < max(sample.total for sample in one.samples) < one.seconds
    assert one.cpu_seconds > 0


def test_exactly_so_many_at_once(serve: Serve, load: Make) -> None:
    inside, most, everybody = 0, 0, Event()

    def meet() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == 5:
            everybody.set()
        assert everybody.wait(10), "they do not come at once"
        gevent.sleep(0.01)
        inside -= 1

    one = load(serve([meet, OK]), 5)
    one.turn(20, lambda _: None)
    assert most == 5


def test_failures_are_counted_and_the_load_goes_on(serve: Serve, load: Make) -> None:
    one = load(serve([OK], [None], [OK]), 1)
    one.turn(5, lambda _: None)
    assert [sample.succeeded for sample in one.samples] == [True, False, True, True, True]
    assert one.connections == 2


def test_nobody_answers_any_more(serve: Serve, load: Make) -> None:
    server = serve([OK])
    one = load(server, 3)
    server.stop()
    one.turn(10, lambda _: None)
    assert [sample.problem for sample in one.samples] == ["Connection refused"] * 10


def test_connections_closed_between_turns_are_opened_again(serve: Serve, load: Make) -> None:
    server = serve([OK], [OK, None], [OK])
    one = load(server, 1)
    one.turn(2, lambda _: None)
    one.turn(2, lambda _: None)
    assert [sample.succeeded for sample in one.samples] == [True] * 4
    assert one.connections == 2


def test_one_that_is_done_may_be_closed_while_others_wait(
    serve: Serve, load: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = Event()
    server = serve([OK, None], [wait.wait, OK])
    one = load(server, 2)
    looks: list[float] = []
    select = one._selector.select

    def looked(timeout: float) -> Any:
        looks.append(timeout)
        return select(timeout)

    monkeypatch.setattr(one._selector, "select", looked)
    gevent.spawn_later(0.1, wait.set)
    one.turn(2, lambda _: None)
    assert [sample.succeeded for sample in one.samples] == [True, True]
    assert len(looks) < 20  # the closed one is not reported again and again


@pytest.mark.slow
def test_silence_ends(serve: Serve, load: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.01)
    one = load(serve([Event().wait], [OK]), 1)

    def patience_again(answered: int) -> None:
        if answered:
            monkeypatch.setattr(module, "_SILENCE_SECONDS", 600.0)

    one.turn(2, patience_again)
    assert [sample.problem for sample in one.samples] == ["timed out", ""]


@pytest.mark.slow
def test_what_was_measured_until_an_interruption_counts(serve: Serve, load: Make) -> None:
    one = load(serve([OK], [OK], [Event().wait]), 1)

    def interrupt(answered: int) -> None:
        if answered == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.turn(5, interrupt)
    assert len(one.samples) == 2
    assert one.seconds > 0
    one.forget()
    assert (one.samples, one.seconds) == ([], 0.0)
