"""Settings of the spool."""

from pathlib import Path

import gevent
import pytest

from proxy.core.errors import ProxyError
from proxy.wiring.events import event_queue, spool_settings
from tests.support.installation import settings


def test_every_running_request_and_waiting_event_has_a_slot(tmp_path: Path) -> None:
    made = settings(tmp_path, MAX_CONCURRENT_REQUESTS="7", EVENT_QUEUE_SIZE="100000")
    spool = spool_settings(made, frozenset({"local"}))
    assert spool.slots == 7 + 16_384
    assert spool.root == tmp_path / "data" / "spool"
    assert spool.sinks == {"local"}
    assert spool.max_bytes == made.events.spool_max_bytes


def test_a_full_queue_waits_or_refuses(tmp_path: Path) -> None:
    made = settings(tmp_path, EVENT_QUEUE_SIZE="2", EVENT_QUEUE_FULL="refuse")
    queue = event_queue(made)
    queue.publish_line(b"{}\n")
    assert not queue.gate.closed
    queue.publish_line(b"{}\n")
    with pytest.raises(ProxyError, match="as fast as requests come") as refused:
        queue.gate.wait_for_room()
    assert (refused.value.code, refused.value.retry_after) == ("overloaded", 1)

    queue = event_queue(settings(tmp_path / "waits", EVENT_QUEUE_SIZE="1"))
    queue.publish_line(b"{}\n")
    waiting = gevent.spawn(queue.gate.wait_for_room)
    gevent.sleep(0)
    assert not waiting.ready()
    queue.take(1, 0)
    waiting.get(timeout=5)
    assert (queue.gate.waited, queue.gate.refused) == (1, 0)
