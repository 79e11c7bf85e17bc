"""Turns of the event loop (`proxy/runtime/yielding.py`)."""

from types import SimpleNamespace

import gevent
import gevent.socket
import pytest

from proxy.runtime import yielding
from proxy.runtime.yielding import SLICE, in_turns, joined, turn, turn_if_due, wait_for_bytes
from tests.support.loop_probe import LoopProbe, served_while


def test_a_turn_serves_those_whose_sockets_are_ready() -> None:
    with LoopProbe() as other:
        before = other.served
        for _ in range(20):
            turn()
        assert other.served - before >= 10


def test_work_that_never_waits_gives_turns_once_they_are_due() -> None:
    assert served_while(turn_if_due) >= 3


@pytest.mark.parametrize(("held", "due"), [(SLICE / 2, False), (SLICE * 1.5, True)])
def test_a_turn_is_due_after_a_slice(
    monkeypatch: pytest.MonkeyPatch, held: float, due: bool
) -> None:
    began = gevent.get_hub().loop.now()
    monkeypatch.setattr(yielding, "time", SimpleNamespace(time=lambda: began + held))
    ran: list[int] = []
    gevent.get_hub().loop.run_callback(ran.append, 1)
    turn_if_due()
    assert bool(ran) is due


def test_steps_are_all_taken_and_what_was_thrown_in_comes_out_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[int] = []

    def turn() -> None:
        turns.append(len(taken))
        raise gevent.GreenletExit

    monkeypatch.setattr(yielding, "turn_if_due", turn)
    taken: list[int] = []
    with pytest.raises(gevent.GreenletExit):
        in_turns(taken.append(step) for step in range(5))
    assert (taken, turns) == ([0, 1, 2, 3, 4], [1])


def test_steps_leave_others_their_turn() -> None:
    assert served_while(lambda: in_turns(iter(range(1000)))) >= 3


def test_joining_leaves_others_their_turn() -> None:
    pieces = [b"x" * 65536] * 500
    assert served_while(lambda: joined(pieces)) >= 3
    assert joined([b"a", b"b"]) == b"ab"


def test_bytes_are_waited_for_whatever_the_socket_s_own_timeout() -> None:
    ours, theirs = gevent.socket.socketpair()
    ours.settimeout(60.0)
    with ours, theirs:
        with pytest.raises(TimeoutError):
            wait_for_bytes(ours, 0.001)
        theirs.sendall(b"x")
        wait_for_bytes(ours, 60.0)
        assert ours.recv(1) == b"x"
