"""Waits for bytes that end."""

import gevent
import pytest
from gevent.socket import socketpair

from proxy.upstream.read_timeouts import ReadTimeouts
from tests.support.wait import wait_until


def test_bytes_end_it() -> None:
    timeouts, (ours, theirs) = ReadTimeouts(), socketpair()
    with ours, theirs:
        ours.settimeout(30)
        waiting = gevent.spawn(timeouts.wait, ours)
        gevent.sleep(0)
        assert not waiting.dead
        theirs.sendall(b"x")
        waiting.get(timeout=10)
        assert timeouts._waits == {}


def test_silence_ends_it() -> None:
    timeouts, (ours, theirs) = ReadTimeouts(), socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        with gevent.Timeout(10), pytest.raises(TimeoutError, match="timed out"):
            timeouts.wait(ours)
        theirs.sendall(b"x")
        with gevent.Timeout(10):
            timeouts.wait(ours)  # and it can be waited for again


def test_each_has_its_own_time() -> None:
    timeouts, (slow, slow_peer), (fast, fast_peer) = ReadTimeouts(), socketpair(), socketpair()
    with slow, slow_peer, fast, fast_peer:
        slow.settimeout(1000)
        fast.settimeout(0.05)
        waiting = gevent.spawn(timeouts.wait, slow)
        gevent.sleep(0)
        with gevent.Timeout(10), pytest.raises(TimeoutError):
            timeouts.wait(fast)
        assert not waiting.dead
        slow_peer.sendall(b"x")
        waiting.get(timeout=10)


def test_no_sweeper_without_a_wait() -> None:
    timeouts, (ours, theirs) = ReadTimeouts(), socketpair()
    with ours, theirs:
        ours.settimeout(0.1)
        theirs.sendall(b"x")
        timeouts.wait(ours)
        wait_until(lambda: not timeouts._sweeper.started)


def test_without_a_timeout_nothing_ends_it() -> None:
    timeouts, (ours, theirs) = ReadTimeouts(), socketpair()
    with ours, theirs:
        ours.settimeout(None)
        waiting = gevent.spawn(timeouts.wait, ours)
        gevent.sleep(0)
        assert timeouts._waits == {}
        assert not timeouts._sweeper.started
        theirs.sendall(b"x")
        waiting.get(timeout=10)


def test_a_late_timeout_does_not_end_the_next_wait() -> None:
    """The look finds it overdue; before that is acted upon, bytes come and another wait begins."""
    timeouts, (ours, theirs) = ReadTimeouts(), socketpair()
    ended: list[str] = []

    def waits() -> None:
        for name in ("first", "second"):
            timeouts.wait(ours)
            ended.append(name)
            ours.recv(10)
            ours.settimeout(1000)

    with ours, theirs:
        ours.settimeout(0.05)
        waiting = gevent.spawn(waits)
        gevent.sleep(0)
        (overdue,) = timeouts._waits.values()
        theirs.sendall(b"x")
        timeouts._time_out(ours, overdue)  # there are bytes: not now
        wait_until(lambda: ended == ["first"])
        timeouts._time_out(ours, overdue)  # another wait by now: not that one
        gevent.sleep(0.2)
        assert not waiting.dead
        theirs.sendall(b"y")
        waiting.get(timeout=10)
        assert ended == ["first", "second"]
