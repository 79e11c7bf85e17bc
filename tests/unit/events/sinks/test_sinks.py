"""Sinks by EVENT_LOG and by name (``proxy/events/sinks/__init__.py``)."""

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.events.dead_letters import DeadLetterFile
from proxy.events.sinks import REMOTE, configured, from_event_log, open_remote, shipped
from proxy.events.sinks.jsonl import JsonLinesSink
from proxy.events.sinks.stdout import StdoutSink
from proxy.settings.settings import Settings
from proxy.wiring.sinks import sink_options
from tests.support.paths import ROOT

NEEDED = {"MANAGEMENT_TOKEN": "x" * 16, "ENCRYPTION_KEY": "A" * 43 + "="}
EACH = {
    "cloudwatch": {"CLOUDWATCH_LOG_GROUP": "proxy"},
    "http": {"LOGGING_URL": "http://127.0.0.1:1/in"},
    "redis": {"EVENT_STREAM": "events", "REDIS_URL": "redis://127.0.0.1:1"},
}


def test_the_sink_of_each_value_of_event_log(tmp_path: Path) -> None:
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


def test_options_configure_remote_sinks() -> None:
    assert configured(sink_options(Settings.load(NEEDED))) == []
    assert configured(sink_options(Settings.load({**NEEDED, "REDIS_URL": "redis://h"}))) == []
    every = {name: value for each in EACH.values() for name, value in each.items()}
    assert (
        configured(sink_options(Settings.load({**NEEDED, **every}))) == list(EACH) == list(REMOTE)
    )
    assert shipped(sink_options(Settings.load(NEEDED))) == ["ledger"]
    assert shipped(sink_options(Settings.load({**NEEDED, "AUTH_MODE": "passthrough"}))) == []
    assert shipped(sink_options(Settings.load({**NEEDED, **every}))) == ["ledger", *REMOTE]


@pytest.mark.parametrize("name", list(REMOTE))
def test_opening_connects_to_nothing(name: str, tmp_path: Path) -> None:
    options = sink_options(Settings.load({**NEEDED, **EACH[name]}))
    assert configured(options) == [name]
    sink = open_remote(name, options, DeadLetterFile(tmp_path / "dead.jsonl"))
    assert name in type(sink).__name__.lower()
    sink.close()


def test_no_library_is_imported_before_its_sink_is_opened() -> None:
    code = (
        "import sys, proxy.app, proxy.cli.events, proxy.events.sinks;"
        "print({'boto3', 'botocore', 'watchtower', 'redis'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout == b"set()\n"
