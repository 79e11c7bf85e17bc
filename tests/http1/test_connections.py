"""On socket pairs; what a stop makes of it is shown by the end-to-end tests."""

from collections.abc import Iterator
from typing import Any

import gevent
import gevent.socket
import pytest

from proxy.http1.connections import Connections


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        theirs.settimeout(20)
        yield ours, theirs


def test_idle_is_shut_and_a_request_that_just_came_is_not(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    connections = Connections()
    connections.idle[ours] = True, 0.0
    theirs.sendall(b"G")
    gevent.sleep(0)
    connections.close_idle(lambda served, since: True)
    assert ours.recv(1) == b"G"
    connections.close_idle(lambda served, since: False)
    theirs.sendall(b"E")
    assert ours.recv(1) == b"E"
    connections.close_idle(lambda served, since: (served, since) == (True, 0.0))
    assert theirs.recv(1) == b""
    connections.close_idle(lambda served, since: True)  # closed already: nothing to do


def test_who_waits_for_a_client_sees_its_end_and_may_answer(pair: tuple[Any, Any]) -> None:
    ours, theirs = pair
    connections = Connections()
    connections.open.add(ours)
    waiting = gevent.spawn(ours.recv, 1)
    gevent.sleep(0)
    connections.end_waits()
    assert waiting.get(timeout=20) == b""
    ours.sendall(b"answer")
    assert theirs.recv(6) == b"answer"


def test_a_connection_that_was_just_closed_ends_no_wait(pair: tuple[Any, Any]) -> None:
    connections = Connections()
    closed, _ = gevent.socket.socketpair()
    closed.close()
    ours, _ = pair
    for client in (closed, ours):
        connections.open.add(client)
    connections.idle[closed] = True, 0.0
    connections.close_idle(lambda served, since: True)
    connections.end_waits()
    assert ours.recv(1) == b""
