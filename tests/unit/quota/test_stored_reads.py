"""Reads of stored responses that wait for the ledger (``proxy/quota/stored_reads.py``)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from proxy.core.errors import StoreError
from proxy.core.usage_event import UsageEvent
from proxy.quota import stored_reads as module
from proxy.quota.stored_reads import Name, Reads
from tests.support.clock import Clock
from tests.support.wait import wait_until


class Ledger:
    def __init__(self) -> None:
        self.known: dict[Name, str] = {}
        self.asked: list[Sequence[Name]] = []
        self.error: Exception | None = None

    def readers(self, names: Sequence[Name]) -> Mapping[Name, str]:
        self.asked.append(names)
        if self.error is not None:
            raise self.error
        return {name: self.known[name] for name in names if name in self.known}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def counted() -> list[UsageEvent]:
    return []


@pytest.fixture
def reads(ledger: Ledger, counted: list[UsageEvent], clock: Clock) -> "Iterator[Reads[UsageEvent]]":
    reads = Reads(ledger, counted.append, clock)
    yield reads
    reads.close()


def read(response: str = "r", **fields: Any) -> UsageEvent:
    made: dict[str, Any] = {
        "started": 1.0,
        "request_id": "",
        "endpoint": f"/v1/responses/{response}",
        "method": "GET",
        "client_ip": "::1",
        "status_code": 200,
        "outcome": "completed",
        "duration_ms": 1.0,
        "project_id": "p",
        "usage_source": "reported",
        "metadata": {"response_id": response, "total_tokens": 5},
    }
    return UsageEvent(**made | fields)


def test_the_read_that_the_ledger_counted(
    reads: "Reads[UsageEvent]", ledger: Ledger, counted: list[UsageEvent], clock: Clock
) -> None:
    first, second, generated = read(), read(), read("g")
    reads.events([first, second, generated])
    reads.ask_ledger()
    assert not ledger.asked, "the ledger has had no time"
    clock.now += 3
    ledger.known = {("p", "r"): first.event_id, ("p", "g"): ""}
    reads.ask_ledger()
    reads.ask_ledger()
    assert counted == [first]
    assert len(ledger.asked) == 1


def test_what_is_no_read_with_usage_is_none_of_this(
    reads: "Reads[UsageEvent]", ledger: Ledger, clock: Clock
) -> None:
    reads.events([read(method="POST"), read(status_code=101), read(project_id=None)])
    reads.events([read(usage_source="none"), read(metadata={"total_tokens": 5})])
    clock.now += 3
    reads.ask_ledger()
    assert not ledger.asked


@pytest.mark.parametrize("error", [None, StoreError(), RuntimeError("a defect")])
def test_what_is_undecided_is_asked_for_again_and_not_for_ever(
    reads: "Reads[UsageEvent]",
    ledger: Ledger,
    counted: list[UsageEvent],
    clock: Clock,
    error: Exception | None,
) -> None:
    first, second = read("a"), read("b")
    reads.events([first])
    clock.now += 50
    reads.events([second])
    ledger.error = error
    clock.now += 9
    reads.ask_ledger()
    clock.now += 2
    reads.ask_ledger()  # the first is given up
    ledger.error = None
    ledger.known = {("p", "a"): first.event_id, ("p", "b"): second.event_id}
    reads.ask_ledger()
    assert counted == [second]


def test_how_many_wait_is_bounded(
    ledger: Ledger, counted: list[UsageEvent], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    monkeypatch.setattr(module, "_MAX_PAGE", 2)
    reads = Reads(ledger, counted.append, clock)
    events = [read(f"{number}") for number in range(5)]
    reads.events(events)
    clock.now += 3
    ledger.known = {("p", f"{number}"): event.event_id for number, event in enumerate(events)}
    reads.ask_ledger()
    reads.ask_ledger()
    assert {event.event_id for event in counted} == {event.event_id for event in events[2:]}


def test_it_runs_while_some_wait(
    ledger: Ledger, counted: list[UsageEvent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INTERVAL", 0.001)
    monkeypatch.setattr(module, "_SETTLED_AFTER_SECONDS", 0.0)
    reads = Reads(ledger, counted.append)
    for _ in range(2):
        assert not reads._task.started
        event = read()
        ledger.known = {("p", "r"): event.event_id}
        reads.events([event])
        wait_until(lambda event=event: event in counted)  # type: ignore[misc]
        wait_until(lambda: not reads._task.started)
    reads.close()
    reads.events([read()])
    assert not reads._task.started


def test_where_no_response_is_remembered_each_read_counts(
    ledger: Ledger, counted: list[UsageEvent]
) -> None:
    reads: Reads[UsageEvent] = Reads(ledger, counted.append, each=True)
    first, second = read(), read()
    reads.events([first, second, read(usage_source="none")])
    assert counted == [first, second]
    reads.ask_ledger()
    assert ledger.asked == []
