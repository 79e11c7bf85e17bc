"""Where events go, by EVENT_LOG (``proxy/events/sinks/__init__.py``)."""

from pathlib import Path

from proxy.events.sinks import from_event_log
from proxy.events.sinks.jsonl import JsonLinesSink
from proxy.events.sinks.stdout import StdoutSink


def test_by_value(tmp_path: Path) -> None:
    assert from_event_log("off", max_bytes=1, backups=1) == []
    (sink,) = from_event_log("stdout", max_bytes=1, backups=1)
    assert isinstance(sink, StdoutSink)
    path = tmp_path / "folder" / "events.jsonl"
    (sink,) = from_event_log(str(path), max_bytes=10, backups=2)
    assert isinstance(sink, JsonLinesSink)
    assert not path.parent.exists()  # nothing is opened before the first event
    sink.write([b"0123456789\n"])
    assert (tmp_path / "folder" / "events.jsonl.1").read_bytes() == b"0123456789\n"
    sink.close()
