"""The queue between requests and sinks: bounded, in order, and never in a request's way."""

import time

import gevent

from proxy.events.queue import EventQueue
from tests.events.samples import event


def test_in_order_and_in_batches() -> None:
    queue = EventQueue(10)
    for number in range(5):
        queue.publish(event(str(number)))
    assert len(queue) == 5
    assert [found.request_id for found in queue.take(3, 0)] == ["0", "1", "2"]
    assert [found.request_id for found in queue.take(3, None)] == ["3", "4"]
    assert queue.take(3, 0) == []


def test_a_full_queue_drops_the_newest_at_once_and_counts() -> None:
    queue = EventQueue(2)
    began = time.monotonic()
    for number in range(5):
        queue.publish(event(str(number)))
    assert time.monotonic() - began < 1
    assert queue.dropped == 3
    assert [found.request_id for found in queue.take(10, 0)] == ["0", "1"]
    queue.publish(event("later"))
    assert (len(queue), queue.dropped) == (1, 3)


def test_take_waits_for_the_first_only() -> None:
    queue = EventQueue(10)
    taker = gevent.spawn(queue.take, 10, None)
    gevent.sleep(0)
    assert not taker.ready()
    queue.publish(event("a"))
    assert [found.request_id for found in taker.get(timeout=2)] == ["a"]


def test_take_gives_up_after_its_time() -> None:
    assert EventQueue(10).take(10, 0.01) == []


def test_a_taker_that_is_killed_loses_nothing() -> None:
    queue = EventQueue(10)
    taker = gevent.spawn(queue.take, 10, None)
    gevent.sleep(0)
    gevent.spawn(queue.publish, event("a"))  # in the same turn of the loop as the kill
    taker.kill()
    taken = taker.value if isinstance(taker.value, list) else []
    assert [found.request_id for found in [*taken, *queue.take(10, 0)]] == ["a"]
