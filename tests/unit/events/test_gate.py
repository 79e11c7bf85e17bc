"""The gate: open, waiting for room, refusing."""

import gevent
import pytest

from proxy.core.errors import ProxyError
from proxy.events.gate import Gate


def refused(gate: Gate) -> str:
    with pytest.raises(ProxyError) as error:
        gate.wait_for_room()
    assert (error.value.code, error.value.status, error.value.retry_after) == ("overloaded", 503, 1)
    return str(error.value)


def test_an_open_gate_admits_every_request() -> None:
    gate = Gate()
    assert not gate.closed
    gate.wait_for_room()
    assert (gate.waited, gate.refused) == (0, 0)


def test_a_request_waits_for_room() -> None:
    gate = Gate()
    gate.queue_full(True)
    assert gate.closed
    waiting = [gevent.spawn(gate.wait_for_room) for _ in range(3)]
    gevent.sleep(0)
    assert not any(each.ready() for each in waiting)
    gate.queue_full(False)
    gevent.joinall(waiting, timeout=5, raise_error=True)
    assert all(each.successful() for each in waiting)
    assert (gate.closed, gate.waited, gate.refused) == (False, 3, 0)


def test_a_request_is_refused_after_the_longest_wait() -> None:
    gate = Gate(0.01)
    gate.queue_full(True)
    assert "as fast as requests come" in refused(gate)
    assert (gate.waited, gate.refused) == (1, 1)


def test_a_wait_of_zero_refuses_at_once() -> None:
    gate = Gate(0)
    gate.queue_full(True)
    assert "as fast as requests come" in refused(gate)
    assert (gate.waited, gate.refused) == (0, 1)


def test_a_full_spool_refuses_even_with_room_in_the_queue() -> None:
    gate = Gate()
    gate.spool_full(True)
    assert gate.closed
    assert "disk" in refused(gate)
    gate.queue_full(True)
    assert "disk" in refused(gate)  # waiting would not help
    gate.queue_full(False)
    assert gate.closed
    gate.spool_full(False)
    assert not gate.closed
    gate.wait_for_room()


def test_a_waiting_request_is_refused_when_the_spool_fills_up() -> None:
    gate = Gate()
    gate.queue_full(True)
    waiting = gevent.spawn(gate.wait_for_room)
    gevent.sleep(0)
    gate.spool_full(True)
    gate.queue_full(False)
    with pytest.raises(ProxyError, match="disk"):
        waiting.get(timeout=5)


def test_a_closed_gate_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(0)
    gate.queue_full(True)
    for _ in range(5):
        refused(gate)
    gevent.sleep(0)
    assert [record.message for record in caplog.records] == [
        "event queue: full, requests are refused"
    ]
