"""Refusals beyond a rate become one line per minute and reason."""

import json
from typing import Any

import pytest

from proxy.core.usage_event import UsageEvent
from proxy.events import rejected_summary
from proxy.events.rejected_summary import RejectedSummary
from tests.support.event_samples import event

START = 1_779_235_380.0  # a full minute


class Now:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        return self.time


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejected_summary, "MAX_PER_MINUTE", 3)


def refused(code: str | None = "invalid_token", started: float = START) -> UsageEvent:
    return event(outcome="rejected", error_code=code, started=started)


def read(lines: list[bytes]) -> list[dict[str, Any]]:
    assert all(line.endswith(b"\n") for line in lines)
    return [json.loads(line) for line in lines]


def test_refusals_up_to_the_rate_are_events() -> None:
    now = Now()
    summary = RejectedSummary(now)
    for _ in range(3):
        assert [summary.handles(refused()) for _ in range(3)] == [False] * 3
        now.time += 60
    assert summary.finished(stopping=True) == []


def test_refusals_beyond_the_rate_are_counted_by_reason() -> None:
    now = Now()
    summary = RejectedSummary(now)
    for _ in range(3):
        summary.handles(refused())
    for second in (1, 5, 3):
        assert summary.handles(refused(started=START + second))
    assert summary.handles(refused("token_expired", START + 2))
    assert summary.finished() == []
    running = read(summary.running())
    now.time += 60
    lines = read(summary.finished())
    assert lines == running  # with the same ids: a receiver of both counts one
    ids = [line.pop("event_id") for line in lines]
    assert len(set(ids)) == 2
    assert lines == [
        {
            "event": "rejected_summary",
            "timestamp": "2026-05-20T00:03:05.000Z",
            "request_id": "",
            "error_code": "invalid_token",
            "count": 3,
            "from": "2026-05-20T00:03:01.000Z",
            "to": "2026-05-20T00:03:05.000Z",
        },
        {
            "event": "rejected_summary",
            "timestamp": "2026-05-20T00:03:02.000Z",
            "request_id": "",
            "error_code": "token_expired",
            "count": 1,
            "from": "2026-05-20T00:03:02.000Z",
            "to": "2026-05-20T00:03:02.000Z",
        },
    ]
    assert summary.finished() == summary.running() == []
    assert not summary.handles(refused())  # a new minute


def test_a_stop_ends_the_summaries_and_keeps_the_rate() -> None:
    summary = RejectedSummary(Now())
    for _ in range(5):
        summary.handles(refused())
    (line,) = read(summary.finished(stopping=True))
    assert line["count"] == 2
    assert summary.handles(refused())
    (line,) = read(summary.finished(stopping=True))
    assert line["count"] == 1
