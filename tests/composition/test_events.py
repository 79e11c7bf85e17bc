"""Settings of the spool."""

from pathlib import Path

from proxy.composition.events import spool_settings
from tests.installation import settings


def test_every_running_request_and_waiting_event_has_a_slot(tmp_path: Path) -> None:
    made = settings(tmp_path, MAX_CONCURRENT_REQUESTS="7", EVENT_QUEUE_SIZE="100000")
    spool = spool_settings(made, frozenset({"local"}))
    assert spool.slots == 7 + 4096  # what waits beyond that means that the disk hangs
    assert spool.root == tmp_path / "data" / "spool"
    assert spool.sinks == {"local"}
    assert spool.max_bytes == made.spool_max_bytes
