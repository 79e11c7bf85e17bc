"""A waiting greenlet is woken at once, once, and never after `stop`."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.socket
import pytest
from gevent.event import AsyncResult, Event

from proxy.core.errors import ClientError, ProxyError
from proxy.gateway.inflight import (
    Cancelled,
    ClientDisconnected,
    DisconnectWatcher,
    InFlightRequests,
    QuotaExhausted,
    ShuttingDown,
    TokenRevoked,
)
from tests.support.wait import wait_until
from tests.support.wire_server import pause

pytestmark = pytest.mark.usefixtures("no_socket_left")

Pair = tuple[Any, Any]


@pytest.fixture
def pair(no_socket_left: None) -> Iterator[Pair]:
    """(the client's end, ours)"""
    ends = gevent.socket.socketpair()
    yield ends
    for end in ends:
        end.close()


class Waiting:
    """A greenlet that watches ``ours`` and waits for an upstream."""

    def __init__(self, ours: Any) -> None:
        self.caught: list[BaseException] = []
        self.upstream, self.watching = Event(), Event()
        self.watcher: DisconnectWatcher | None = None
        self.greenlet = gevent.spawn(self._run, ours)
        assert self.watching.wait(20)

    def _run(self, ours: Any) -> None:
        self.watcher = DisconnectWatcher(ours)
        self.watcher.start()
        self.watcher.start()
        self.watching.set()
        try:
            self.upstream.wait()
        except Cancelled as error:
            self.caught.append(error)
        finally:
            self.watcher.stop()
            self.watcher.stop()

    def end(self) -> list[BaseException]:
        self.greenlet.join(20)
        assert self.greenlet.dead
        assert self.watcher
        assert self.watcher._watcher is None
        return self.caught


@pytest.mark.parametrize("how", ["close", "half", "reset"])
def test_a_client_that_leaves_wakes_the_waiting_greenlet(pair: Pair, how: str) -> None:
    client, ours = pair
    if how == "reset":
        ours.sendall(b"unread")  # closing with unread bytes resets
    waiting = Waiting(ours)
    if how == "half":
        client.shutdown(gevent.socket.SHUT_WR)
    else:
        client.close()
    (error,) = waiting.end()
    assert isinstance(error, ClientDisconnected)
    assert error.code is None


def test_one_that_has_left_before(pair: Pair) -> None:
    client, ours = pair
    client.close()
    assert [type(error) for error in Waiting(ours).end()] == [ClientDisconnected]


def test_pipelined_bytes_are_no_leaving(pair: Pair) -> None:
    """And are left for the server to read; what comes after cannot be seen."""
    client, ours = pair
    waiting = Waiting(ours)
    client.sendall(b"GET / HTTP/1.1\r\n")
    pause()
    client.close()
    pause()
    assert not waiting.greenlet.dead
    waiting.upstream.set()
    assert waiting.end() == []
    assert ours.recv(3) == b"GET"


def test_nothing_is_thrown_after_stop(pair: Pair) -> None:
    client, ours = pair
    watcher = DisconnectWatcher(ours)
    watcher.start()
    watcher.stop()
    client.close()
    pause()
    watcher.start()  # the body's reader may come late; the request has ended
    pause()
    assert watcher._watcher is None


def test_a_client_that_stays(pair: Pair) -> None:
    waiting = Waiting(pair[1])
    pause()
    waiting.upstream.set()
    assert waiting.end() == []


def test_a_closed_socket_is_not_watched(pair: Pair) -> None:
    pair[1].close()
    watcher = DisconnectWatcher(pair[1])
    watcher.start()
    assert watcher._watcher is None
    watcher.stop()


def test_watchers_do_not_leak(pair: Pair) -> None:
    loop = gevent.get_hub().loop
    before = loop.activecnt
    for _ in range(50):
        watcher = DisconnectWatcher(pair[1])
        watcher.start()
        watcher.stop()
    assert loop.activecnt <= before


def test_interrupt_all() -> None:
    live = InFlightRequests()
    caught: list[object] = []
    ready = []

    def request(number: int) -> None:
        slot = live.register()
        ready.append(number)
        try:
            Event().wait(20)
        except ShuttingDown as error:
            caught.append(error)
        finally:
            live.unregister(slot)
            live.unregister(slot)

    greenlets = [gevent.spawn(request, number) for number in range(3)]
    gevent.sleep(0)
    assert len(ready) == len(live) == 3
    live.cancel_all(ShuttingDown)
    gevent.joinall(greenlets, timeout=20)
    assert len(caught) == len({id(error) for error in caught}) == 3
    assert {getattr(error, "code", None) for error in caught} == {"draining"}
    assert len(live) == 0


def test_one_that_has_ended_meanwhile_is_left_alone() -> None:
    live = InFlightRequests()
    go = Event()
    ended = []

    def request() -> None:
        slot = live.register()
        go.wait(20)
        live.unregister(slot)
        try:
            gevent.sleep(0.02)
        except ShuttingDown:
            ended.append("interrupted")
        ended.append("ended")

    greenlet = gevent.spawn(request)
    gevent.sleep(0)
    go.set()
    gevent.sleep(0)
    live.cancel_all(ShuttingDown)
    greenlet.join(20)
    assert ended == ["ended"]


def test_the_caller_may_be_one_of_them() -> None:
    live = InFlightRequests()

    def request() -> str:
        slot = live.register()
        live.cancel_all(ShuttingDown)
        try:
            gevent.sleep(20)
        except ShuttingDown:
            return "interrupted"
        finally:
            live.unregister(slot)
        return "not"

    assert gevent.spawn(request).get(timeout=20) == "interrupted"


def test_no_foreign_handler_takes_it_for_its_own() -> None:
    """`except Exception` and `except OSError` on the way out let it pass."""
    assert not issubclass(Cancelled, Exception)


class Owner:
    def __init__(self, *accounts: str, project_id: str | None = None) -> None:
        self.accounts = accounts
        self.project_id = project_id

    def concerned_by(self, ids: frozenset[str] | set[str]) -> bool:
        return any(account in ids for account in self.accounts)


class Served:
    """Requests that wait until they are cut, and then take a while for their last words."""

    def __init__(self, closing_event: Callable[[], object] = lambda: None) -> None:
        self.live = InFlightRequests()
        self.closing_event = closing_event
        self.cut: list[tuple[Owner | None, Cancelled]] = []

    def serve(self, owner: Owner | None) -> Any:
        greenlet = gevent.spawn(self._run, owner)
        gevent.sleep(0)
        return greenlet

    def _run(self, owner: Owner | None) -> None:
        slot = self.live.register()
        if owner is not None:
            self.live.set_owner(slot, owner)
        try:
            Event().wait(20)
        except Cancelled as error:
            self.cut.append((owner, error))
            try:
                self.closing_event()
            except Cancelled as again:
                self.cut.append((owner, again))
        finally:
            self.live.unregister(slot)


def test_only_those_of_an_account_are_cut() -> None:
    served = Served()
    child, parent, other = Owner("p", "parent", "child"), Owner("p", "parent"), Owner("p", "other")
    chosen = [served.serve(child), served.serve(parent)]
    left = [served.serve(other), served.serve(None)]
    served.live.cancel_account("parent", QuotaExhausted)
    gevent.joinall(chosen, timeout=20)
    assert [owner for owner, _ in served.cut] == [child, parent]
    for _, error in served.cut:
        assert (error.code, error.refusal().status) == ("quota_exceeded", 429)
        assert error.refusal().headers == (("x-should-retry", "false"),)
    assert len(served.live) == 2
    served.live.cancel_all(ShuttingDown)
    gevent.joinall(left, timeout=20)


def test_a_closing_event_is_not_interrupted_by_a_second_cut() -> None:
    go = Event()
    served = Served(lambda: go.wait(20))
    owner = Owner("a")
    greenlet = served.serve(owner)
    claims = served.live.owned()
    error = ClientError(code="token_inactive", headers=[("A", "b")])
    for _ in range(3):
        served.live.revoke(claims, error)
        served.live.revoke(served.live.owned(), error)
        pause()
    assert len(served.live) == 1
    assert served.live.owned() == []
    go.set()
    greenlet.join(20)
    ((_, cut),) = served.cut
    assert isinstance(cut, TokenRevoked)
    assert cut.code == "token_inactive"
    assert cut.refusal() is error


def test_a_claim_on_what_has_ended_meanwhile_cuts_no_other_request() -> None:
    live = InFlightRequests()
    first, second = Owner("a"), Owner("a")
    caught = []
    go, ended = Event(), Event()

    def requests() -> None:
        live.unregister(live.register())
        for owner in (first, second):
            slot = live.register()
            live.set_owner(slot, owner)
            try:
                (go if owner is first else ended).wait(20)
            except Cancelled as error:
                caught.append(error)
            live.unregister(slot)

    greenlet = gevent.spawn(requests)
    gevent.sleep(0)
    claims = live.owned()
    go.set()
    wait_until(lambda: live.owned() != claims)
    assert not any(map(live.is_current, claims))
    live.revoke(claims, ClientError())
    live.replace(claims, first)
    pause()
    assert [owner for _, owner in live.owned()] == [second]
    ended.set()
    greenlet.join(20)
    assert caught == []


class Places:
    """Ten places, of which ``share`` is a share. They are held until they are freed."""

    def __init__(self, share: float = 0.5) -> None:
        self.live = InFlightRequests(10, share)
        self.held: list[tuple[str, str | None, Event]] = []

    def ask(self, address: str, project: str | None) -> str:
        """What one is told who asks for a place; ``""``: he has it."""
        told: Any = AsyncResult()
        gevent.spawn(self._hold, address, project, told)
        return str(told.get(timeout=20))

    def _hold(self, address: str, project: str | None, told: Any) -> None:
        slot = free = None
        try:
            slot = self.live.register(address)
            self.live.set_owner(slot, Owner(project_id=project))
        except ProxyError as error:
            told.set(str(error) or str(error.code))
        else:
            free = Event()
            self.held.append((address, project, free))
            told.set("")
            free.wait(20)
        finally:
            self.live.unregister(slot)

    def free(self) -> None:
        self.held.pop()[2].set()
        gevent.sleep(0)


def test_one_project_fills_an_idle_node_and_leaves_room_under_pressure() -> None:
    places = Places()
    for number in range(8):
        assert places.ask(f"10.0.0.{number}", "one") == ""
    assert "this project has its share" in places.ask("10.0.0.9", "one")
    assert len(places.live) == 8, "who is refused holds no place"
    assert places.ask("10.0.1.1", "two") == ""
    assert places.ask("10.0.1.2", "two") == ""
    assert "this project" not in places.ask("10.0.1.3", "two"), "it is full"
    for _ in range(3):
        places.free()
    assert places.ask("10.0.0.9", "one") == "", "the pressure is over"


def test_one_address_too_but_not_a_local_one() -> None:
    places = Places()
    for number in range(8):
        assert places.ask("10.0.0.1", f"project-{number}") == ""
    assert "this client address has its share" in places.ask("10.0.0.1", "another")
    assert places.ask("10.0.0.2", "another") == ""
    for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", ""):
        places = Places()
        for number in range(10):
            assert places.ask(address, f"project-{number}") == ""


def test_without_shares_one_may_have_all() -> None:
    places = Places(share=1.0)
    for _ in range(10):
        assert places.ask("10.0.0.1", "one") == ""
    assert places.ask("10.0.0.1", "two") != ""


def test_where_clients_bring_their_keys_there_is_no_project() -> None:
    places = Places()
    for number in range(10):
        assert places.ask(f"10.0.0.{number}", None) == ""


def test_nothing_is_kept_of_who_has_left() -> None:
    places = Places()
    for number in range(5):
        places.ask(f"10.0.0.{number}", f"project-{number}")
    while places.held:
        places.free()
    live = places.live
    for kept in (live._by_address.held, live._by_project.held, live._counted, live._owners):
        assert not kept
    live.unregister(None)


def test_more_is_known_of_an_owner() -> None:
    served = Served()
    old, new = Owner("a"), Owner("a")
    greenlet = served.serve(old)
    claims = served.live.owned()
    served.live.replace(claims, new)
    assert [owner for _, owner in served.live.owned()] == [new]
    served.live.revoke(claims, ClientError())
    pause()
    assert served.cut == [], "what was to be cut is an owner's of before"
    served.live.revoke(served.live.owned(), ClientError())
    greenlet.join(20)
    assert len(served.cut) == 1


def test_cutting_many_leaves_the_others_their_turn() -> None:
    """Sockets and timers are looked at in between, and not only at the end."""

    def work() -> None:
        until = time.perf_counter() + 0.0005
        while time.perf_counter() < until:
            pass

    served = Served(work)
    owner = Owner("a")
    greenlets = [served.serve(owner) for _ in range(300)]
    turns: list[int] = []

    def beside() -> None:
        while len(served.cut) < 300:
            gevent.sleep(0.0001)
            turns.append(len(served.cut))

    other = gevent.spawn(beside)
    served.live.revoke(served.live.owned(), ClientError(code="token_inactive"))
    gevent.joinall([*greenlets, other], timeout=20)
    assert len(served.cut) == 300
    steps = [after - before for before, after in zip([0, *turns], turns, strict=False)]
    assert max(steps) <= 12, "cut between two turns of another greenlet"
