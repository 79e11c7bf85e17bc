"""Waits for bytes that end."""

import gevent
import pytest
from gevent.socket import socketpair

from proxy.relay.patience import Patience
from tests.waiting import wait_until


def test_bytes_end_it() -> None:
    patience, (ours, theirs) = Patience(), socketpair()
    with ours, theirs:
        ours.settimeout(30)
        waiting = gevent.spawn(patience.wait, ours)
        gevent.sleep(0)
        assert not waiting.dead
        theirs.sendall(b"x")
        waiting.get(timeout=10)
        assert patience._until == {}


def test_silence_ends_it() -> None:
    patience, (ours, theirs) = Patience(), socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        with gevent.Timeout(10), pytest.raises(TimeoutError, match="timed out"):
            patience.wait(ours)
        theirs.sendall(b"x")
        with gevent.Timeout(10):
            patience.wait(ours)  # and it can be waited for again


def test_each_has_its_own_time() -> None:
    patience, (slow, slow_peer), (fast, fast_peer) = Patience(), socketpair(), socketpair()
    with slow, slow_peer, fast, fast_peer:
        slow.settimeout(1000)
        fast.settimeout(0.05)
        waiting = gevent.spawn(patience.wait, slow)
        gevent.sleep(0)
        with gevent.Timeout(10), pytest.raises(TimeoutError):
            patience.wait(fast)
        assert not waiting.dead
        slow_peer.sendall(b"x")
        waiting.get(timeout=10)


def test_nobody_looks_while_nobody_waits() -> None:
    patience, (ours, theirs) = Patience(), socketpair()
    with ours, theirs:
        ours.settimeout(0.1)
        theirs.sendall(b"x")
        patience.wait(ours)
        wait_until(lambda: patience._greenlet is None)


def test_without_a_timeout_nothing_ends_it() -> None:
    patience, (ours, theirs) = Patience(), socketpair()
    with ours, theirs:
        ours.settimeout(None)
        waiting = gevent.spawn(patience.wait, ours)
        gevent.sleep(0)
        assert patience._until == {}
        assert patience._greenlet is None
        theirs.sendall(b"x")
        waiting.get(timeout=10)
