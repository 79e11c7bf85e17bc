"""The queue between requests and sinks: bounded, in order, and no request waits in it."""

import json
from collections.abc import Sequence
from pathlib import Path

import gevent
import pytest

from proxy.core.usage_event import Intent
from proxy.events import queue as queue_module
from proxy.events import rejected_summary
from proxy.events.queue import Entry, EventQueue
from proxy.events.spool.inflight_table import NO_SLOT, InFlightTable, leftover_records
from proxy.events.spool.segment import decode_record
from tests.support.event_samples import event, names


def asked_for(entries: Sequence[Entry]) -> list[str]:
    return names([decode_record(record) or b"" for record, _, _ in entries])


def record_intent(queue: EventQueue, name: str = "r") -> int:
    ids = ("e" * 32, 1.5, name, "p1", "t1", "sk-a...b")
    return queue.record_intent(Intent(*ids, "/v1/models", "GET", "::1"))


def test_events_are_taken_in_order_and_in_batches() -> None:
    queue = EventQueue(10)
    for number in range(5):
        queue.publish(event(str(number)))
    assert len(queue) == 5
    assert asked_for(queue.take(3, 0)) == ["0", "1", "2"]
    assert asked_for(queue.take(3, None)) == ["3", "4"]
    assert queue.take(3, 0) == []


def test_a_full_queue_drops_nothing_and_closes_its_gate() -> None:
    queue = EventQueue(2)
    queue.publish(event("0"))
    assert not queue.gate.closed
    for number in range(1, 5):
        queue.publish(event(str(number)))
    assert queue.gate.closed
    assert asked_for(queue.take(3, 0)) == ["0", "1", "2"]
    assert queue.gate.closed
    assert asked_for(queue.take(1, 0)) == ["3"]
    assert not queue.gate.closed
    queue.publish(event("later"))
    assert asked_for(queue.take(10, 0)) == ["4", "later"]
    assert queue.dropped == 0


def test_entries_that_bypass_the_gate_are_bounded_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_MAX_EXCESS", 1)
    queue = EventQueue(2)
    queue.inflight_table = InFlightTable.create(tmp_path, 9)
    for number in range(5):
        queue.publish(event(str(number)))
    assert (len(queue), queue.dropped, queue.inflight_table.open) == (3, 2, 3)
    assert asked_for(queue.take(10, 0)) == ["0", "1", "2"]


def test_take_waits_for_the_first_entry_only() -> None:
    queue = EventQueue(10)
    taker = gevent.spawn(queue.take, 10, None)
    gevent.sleep(0)
    assert not taker.ready()
    queue.publish(event("a"))
    assert asked_for(taker.get(timeout=2)) == ["a"]


def test_take_returns_nothing_after_its_wait() -> None:
    assert EventQueue(10).take(10, 0.01) == []


def test_killing_a_waiting_greenlet_loses_nothing() -> None:
    queue = EventQueue(10)
    taker = gevent.spawn(queue.take, 10, None)
    gevent.sleep(0)
    gevent.spawn(queue.publish, event("a"))  # in the same turn of the loop as the kill
    taker.kill()
    taken = taker.value if isinstance(taker.value, list) else []
    assert asked_for([*taken, *queue.take(10, 0)]) == ["a"]


def test_without_a_table_a_request_has_no_slot(tmp_path: Path) -> None:
    queue = EventQueue(10)
    assert record_intent(queue) == NO_SLOT
    queue.publish(event("a"))
    ((_record, slot, _),) = queue.take(10, 0)
    assert slot == NO_SLOT
    queue.release(slot)


def test_a_request_in_flight_has_a_slot(tmp_path: Path) -> None:
    queue = EventQueue(10)
    queue.inflight_table = InFlightTable.create(tmp_path, 4)
    slot = record_intent(queue, "a")
    assert [json.loads(r[9:])["outcome"] for r in leftover_records(tmp_path)[0]] == ["unknown"]
    queue.publish(event("a", slot=slot))
    assert [json.loads(r[9:])["outcome"] for r in leftover_records(tmp_path)[0]] == ["completed"]
    ((record, taken, _),) = queue.take(10, 0)
    assert leftover_records(tmp_path) == ([record], 0)
    queue.release(taken)
    assert leftover_records(tmp_path) == ([], 0)
    assert b"slot" not in record


def test_a_refused_request_gets_a_slot_when_it_ends(tmp_path: Path) -> None:
    queue = EventQueue(10)
    queue.inflight_table = InFlightTable.create(tmp_path, 1)
    queue.publish(event("a", slot=record_intent(queue, "a")))
    assert record_intent(queue, "no slot is left") == NO_SLOT
    queue.release(queue.take(10, 0)[0][1])
    queue.publish(event("b"))
    ((record, slot, _),) = queue.take(10, 0)
    assert leftover_records(tmp_path) == ([record], 0)
    queue.publish(event("no slot is left"))
    assert queue.take(10, 0)[0][1] == NO_SLOT
    queue.release(slot)
    assert leftover_records(tmp_path) == ([], 0)


def test_an_event_that_cannot_be_encoded_releases_its_slot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = EventQueue(1)
    queue.inflight_table = InFlightTable.create(tmp_path, 4)
    queue.publish(event("kept", slot=record_intent(queue)))
    queue.publish(event("bad", slot=record_intent(queue), metadata={"model": "\ud800"}))
    assert (queue.dropped, queue.unwritable, queue.inflight_table.open) == (0, 1, 1)
    assert "cannot be written" in caplog.text


def test_an_intent_that_cannot_be_encoded_stops_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    queue = EventQueue(1)
    queue.inflight_table = InFlightTable.create(tmp_path, 4)
    assert record_intent(queue, "\ud800") == NO_SLOT
    assert queue.inflight_table.open == 0
    assert "an intent cannot be written" in caplog.text


def test_other_lines_are_published_too(tmp_path: Path) -> None:
    """It is delivered and recovered like one, and has no event."""
    queue = EventQueue(1)
    queue.inflight_table = InFlightTable.create(tmp_path, 2)
    queue.publish_line(b'{"event":"audit"}\n')
    assert [decode_record(record) for record in leftover_records(tmp_path)[0]] == [
        b'{"event":"audit"}\n'
    ]
    ((record, slot, event),) = queue.take(10, 0)
    assert (decode_record(record), event) == (b'{"event":"audit"}\n', None)
    queue.release(slot)
    assert queue.inflight_table.open == 0
    queue.inflight_table = None
    queue.publish_line(b"{}\n")
    assert len(queue) == 1


def test_refusals_beyond_a_rate_are_summed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejected_summary, "MAX_PER_MINUTE", 2)
    queue, seen = EventQueue(10), []
    queue.inflight_table = InFlightTable.create(tmp_path, 9)
    queue.observe = seen.extend
    for number in range(5):
        queue.publish(event(f"{number}", outcome="rejected", error_code="invalid_token"))
    queue.publish(event("known", outcome="rejected", token="sk-a...b"))
    assert asked_for(queue.take(10, 0)) == ["0", "1", "known"]
    assert [each.request_id for each in seen] == ["2", "3", "4"]
    for _ in range(3):
        queue.sum_up()
    held = [json.loads(decode_record(each) or b"") for each in leftover_records(tmp_path)[0]]
    assert [each["count"] for each in held if each.get("event") == "rejected_summary"] == [3]
    queue.sum_up(stopping=True)
    ((record, slot, none),) = queue.take(10, 0)
    assert (json.loads(decode_record(record) or b"")["count"], none) == (3, None)
    queue.release(slot)
    queue.sum_up()
    assert queue.inflight_table.open == 3  # of those that were taken above
    assert len(queue) == 0
