"""CloudWatch Logs over HTTP (``proxy/events/sinks/cloudwatch.py``); moto stands in for it."""

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from proxy.events.dead_letters import DeadLetterFile
from proxy.events.sinks.cloudwatch import CloudWatchSink
from tests.support import fault_proxy
from tests.support.event_samples import event
from tests.support.services import Moto

HOUR = 3600.0


def line(name: str, age: float = 0, **fields: Any) -> bytes:
    return event(name, started=time.time() - age, **fields).line()


def throttled(kind: str = "ThrottlingException", status: str = "400 Bad Request") -> bytes:
    body = json.dumps({"__type": kind, "message": "Rate exceeded"}).encode()
    return fault_proxy.http(status, body, "Content-Type: application/x-amz-json-1.1")


@pytest.fixture
def between(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[fault_proxy.Middleman]:
    """The service that boto3 uses in this process."""
    made = fault_proxy.Middleman(moto.port)
    for name, value in Moto.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    yield made
    made.close()


@pytest.fixture
def group() -> str:
    return f"/proxy/{uuid4()}"


@pytest.fixture
def dead(tmp_path: Path) -> DeadLetterFile:
    return DeadLetterFile(tmp_path / "dead.jsonl")


@pytest.fixture
def sink(
    between: fault_proxy.Middleman, group: str, dead: DeadLetterFile
) -> Iterator[CloudWatchSink]:
    made = CloudWatchSink(group, "node-{hostname}-{pid}", dead)
    yield made
    made.close()


def names(moto: Moto, group: str) -> list[str]:
    return [json.loads(message)["request_id"] for message in moto.messages(group)]


class Calls:
    """Each put_log_events call of a sink."""

    def __init__(self, sink: CloudWatchSink) -> None:
        assert sink._handler is not None
        self.made: list[list[dict[str, Any]]] = []
        events = sink._handler.cwl_client.meta.events
        events.register("before-parameter-build.cloudwatch-logs.PutLogEvents", self._note)

    def _note(self, params: dict[str, Any], **_: Any) -> None:
        self.made.append(params["logEvents"])


def test_group_and_stream_are_created(sink: CloudWatchSink, moto: Moto, group: str) -> None:
    sink.write([line("a"), line("b")])
    sink.write([line("c")])
    assert names(moto, group) == ["a", "b", "c"]
    (stream,) = moto.client().describe_log_streams(logGroupName=group)["logStreams"]
    assert stream["logStreamName"] == f"node-{os.uname().nodename}-{os.getpid()}"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"AWS_REGION": "eu-west-3"}, "eu-west-3"),
        ({"AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
        ({"AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-3"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-2"}, "eu-west-2"),
    ],
)
def test_the_region_of_the_environment(
    sink: CloudWatchSink,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    sink.write([line("a")])
    assert sink._handler is not None
    assert sink._handler.cwl_client.meta.region_name == expected


def test_the_libraries_do_not_log_each_call(
    sink: CloudWatchSink, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        sink.write([line("a")])
    libraries = ("boto3", "botocore", "urllib3")
    assert [each for each in caplog.records if each.name.startswith(libraries)] == []


def test_deleted_group_and_stream_are_created_again(
    sink: CloudWatchSink, moto: Moto, group: str
) -> None:
    sink.write([line("a")])
    moto.client().delete_log_group(logGroupName=group)
    sink.write([line("b")])
    assert names(moto, group) == ["b"]


def test_a_message_is_the_line(sink: CloudWatchSink, moto: Moto, group: str) -> None:
    given = line("100% {sure}", endpoint="/v1/ü %s")
    sink.write([given])
    assert moto.messages(group) == [given.decode().rstrip("\n")]


def test_events_are_sent_in_order_of_time(sink: CloudWatchSink, moto: Moto, group: str) -> None:
    sink.write([line("late", 1), line("early", 60), line("middle", 30)])
    assert names(moto, group) == ["early", "middle", "late"]


def test_batches_span_less_than_a_day(sink: CloudWatchSink, moto: Moto, group: str) -> None:
    sink.write([line("first")])
    calls = Calls(sink)
    sink.write([line(str(age), age * HOUR) for age in (0, 20, 30, 50)])
    assert [len(made) for made in calls.made] == [2, 2]
    assert sorted(names(moto, group)) == ["0", "20", "30", "50", "first"]


def test_batches_hold_less_than_a_mebibyte(sink: CloudWatchSink, moto: Moto, group: str) -> None:
    sink.write([line("first")])
    calls = Calls(sink)
    sink.write([line(str(number), endpoint="x" * 300_000) for number in range(7)])
    sizes = [sum(len(each["message"]) + 26 for each in made) for made in calls.made]
    assert max(sizes) <= 1_048_576
    assert len(sizes) == 3
    assert len(names(moto, group)) == 8


def test_batches_hold_at_most_ten_thousand(sink: CloudWatchSink) -> None:
    sink.write([line("first")])
    calls = Calls(sink)
    small = orjson.dumps({"timestamp": "2026-11-21T00:00:00Z"})
    calls.made.clear()
    sink.write([small] * 10_001)
    assert [len(made) for made in calls.made] == [10_000, 1]


def test_a_long_line_is_truncated_and_still_json(
    sink: CloudWatchSink, moto: Moto, group: str
) -> None:
    sink.write([line("long", endpoint="ü" * 2_000_000), line("short")])
    found = moto.messages(group)
    long, short = (json.loads(message) for message in found)
    assert long["truncated"] is True
    assert set(long["endpoint"]) == {"ü"}
    assert 1_000_000 < len(found[0].encode()) <= 1_048_576 - 26
    assert "truncated" not in short


def test_only_too_old_and_too_new_events_become_dead_letters(
    sink: CloudWatchSink, moto: Moto, group: str, dead: DeadLetterFile, tmp_path: Path
) -> None:
    batch = [line("old", 20 * 24 * HOUR), line("good"), line("new", -3 * HOUR)]
    sink.write(batch)
    assert names(moto, group) == ["good"]
    assert dead.count == 2
    assert (tmp_path / "dead.jsonl").read_bytes() == batch[0] + batch[2]


def test_the_rejected_ranges_become_dead_letters(
    sink: CloudWatchSink, between: fault_proxy.Middleman, tmp_path: Path
) -> None:
    """Indices as documented: the old end is exclusive, the new start inclusive."""
    info = {
        "tooOldLogEventEndIndex": 2,
        "expiredLogEventEndIndex": 1,
        "tooNewLogEventStartIndex": 4,
    }
    between.meet(
        fault_proxy.answering(
            fault_proxy.http("200 OK", json.dumps({"rejectedLogEventsInfo": info}).encode())
        )
    )
    batch = [line(str(number), 60 - number) for number in range(5)]
    sink.write(batch)
    assert (tmp_path / "dead.jsonl").read_bytes() == batch[0] + batch[1] + batch[4]


def test_a_bad_event_does_not_block_the_others(
    sink: CloudWatchSink, moto: Moto, group: str, dead: DeadLetterFile
) -> None:
    """The real service refuses times before 1970; moto is patched to do so."""
    sink.write([line("first")])
    handler = sink._handler
    assert handler is not None
    original = handler.cwl_client.put_log_events

    def put_log_events(**kwargs: Any) -> Any:
        if any("poison" in each["message"] for each in kwargs["logEvents"]):
            raise handler.cwl_client.exceptions.InvalidParameterException({}, "PutLogEvents")
        return original(**kwargs)

    handler.cwl_client.put_log_events = put_log_events
    sink.write([line("a"), line("poison"), line("b")])
    assert names(moto, group) == ["first", "a", "b"]
    assert dead.count == 1


@pytest.mark.parametrize(
    "trouble",
    [
        fault_proxy.refused,
        fault_proxy.cut_after(500),
        fault_proxy.answer_lost,
        fault_proxy.answering(throttled()),
        fault_proxy.answering(throttled("ServiceUnavailableException", "503 No")),
        fault_proxy.answering(throttled("AccessDeniedException")),
        fault_proxy.answering(throttled("UnrecognizedClientException")),
        fault_proxy.answering(fault_proxy.http("500 No", b"<html>")),
    ],
)
def test_write_returns_only_when_the_service_has_accepted(
    sink: CloudWatchSink,
    moto: Moto,
    group: str,
    between: fault_proxy.Middleman,
    dead: DeadLetterFile,
    trouble: fault_proxy.Trouble,
) -> None:
    sink.write([line("first")])
    between.meet(trouble)
    calls = between.calls
    with pytest.raises((ClientError, BotoCoreError)):
        sink.write([line("a"), line("b")])
    assert between.calls == calls + 1  # one attempt: the caller decides about the next one
    between.meet(None)
    sink.write([line("a"), line("b")])
    assert set(names(moto, group)) == {"first", "a", "b"}
    assert dead.count == 0


def test_a_missing_region_is_an_error_of_the_write(
    group: str, dead: DeadLetterFile, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    sink = CloudWatchSink(group, "s", dead)
    with pytest.raises(BotoCoreError):
        sink.write([line("a")])
    sink.close()
