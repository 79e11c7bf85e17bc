"""The shipper's parts (``proxy/shipper/shipper.py``); the process:
tests/integration/server/test_supervisor.py."""

import logging
import threading
from pathlib import Path

import pytest

from proxy.events.spool.offsets import Offset
from proxy.events.spool.retention import register_sinks
from proxy.events.spool.segment import Batch
from proxy.settings.settings import Settings
from proxy.shipper import shipper as module
from proxy.shipper.shipper import Shipper, remote_consumers, shipper_lock
from proxy.shipper.spool_consumer import SpoolConsumer
from tests.support.event_receiver import Receiver
from tests.support.spool_factories import numbers, write
from tests.support.wait import wait_until

NEEDED = {"MANAGEMENT_TOKEN": "x" * 16, "ENCRYPTION_KEY": "A" * 43 + "="}


def test_a_hanging_sink_blocks_neither_others_nor_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_sinks(tmp_path, ["good", "bad"])
    taken: list[int] = []
    hangs, ended = threading.Event(), threading.Event()

    def good(_source: str, _start: Offset, batch: Batch) -> Offset:
        taken.extend(numbers(batch.lines))
        return batch.offset

    def bad(_source: str, _start: Offset, batch: Batch) -> Offset:
        hangs.wait(60)
        return batch.offset

    write(tmp_path, range(100))
    shipper = Shipper([SpoolConsumer("bad", bad, tmp_path), SpoolConsumer("good", good, tmp_path)])
    result: list[bool] = []
    thread = threading.Thread(target=lambda: result.append(shipper.run(ended, 0.5)))
    thread.start()
    wait_until(lambda: taken == list(range(100)))
    with caplog.at_level(logging.WARNING):
        ended.set()
        thread.join(20)
    assert result == [False]
    assert "events for bad stay in the spool" in caplog.text
    hangs.set()


def test_waiting_events_are_delivered_at_the_end(tmp_path: Path) -> None:
    register_sinks(tmp_path, ["sink"])
    taken: list[int] = []

    def take(_source: str, _start: Offset, batch: Batch) -> Offset:
        taken.extend(numbers(batch.lines))
        return batch.offset

    write(tmp_path, range(3000))
    ended = threading.Event()
    ended.set()
    assert Shipper([SpoolConsumer("sink", take, tmp_path)]).run(ended, 20)
    assert taken == list(range(3000))


def test_metrics_are_published_and_their_failure_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PUBLISH_INTERVAL_SECONDS", 0.01)
    calls: list[int] = []
    ended = threading.Event()

    def publish() -> None:
        calls.append(1)
        if len(calls) == 3:
            ended.set()
        raise OSError("disk full")

    assert Shipper([], publish).run(ended, 1)
    assert len(calls) >= 4


def test_one_shipper_at_a_time(tmp_path: Path) -> None:
    with shipper_lock(tmp_path, lambda _seconds: True) as first:
        assert first
        with shipper_lock(tmp_path, lambda _seconds: True) as second:
            assert not second
    with shipper_lock(tmp_path, lambda _seconds: True) as third:
        assert third


def test_the_next_shipper_waits_for_the_end_of_the_last(tmp_path: Path) -> None:
    waits: list[float] = []
    holder = shipper_lock(tmp_path, lambda _seconds: True)
    assert holder.__enter__()

    def give_up(seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 3:
            holder.__exit__(None, None, None)
        return False

    with shipper_lock(tmp_path, give_up) as mine:
        assert mine
    assert len(waits) == 3


def test_one_consumer_for_each_remote_sink(tmp_path: Path) -> None:
    receiver = Receiver()
    settings = Settings.load(
        {
            **NEEDED,
            "DATA_DIR": str(tmp_path),
            "LOGGING_URL": receiver.url,
            "EVENT_STREAM": "s",
            "REDIS_URL": "redis://127.0.0.1:1",
        }
    )
    root = tmp_path / "spool"
    consumers = remote_consumers(settings, root)
    assert [consumer.name for consumer in consumers] == ["http", "redis"]
    register_sinks(root, ["http"])
    receiver.judge = lambda batch: (
        "400 No" if "e1" in [event["event_id"] for event in batch] else "200 OK"
    )
    write(root, range(3))
    consumers[0].start()
    wait_until(lambda: consumers[0].delivered == 3)
    assert [event["event_id"] for event in receiver.events] == ["e0", "e2"]
    assert [consumer.dead_letters for consumer in consumers] == [1, 0]
    assert b'"e1"' in (tmp_path / "dead-letters" / "http.jsonl").read_bytes()
    consumers[0].finish()
    assert consumers[0].join(20)
    receiver.close()
