"""Entries off the path: written soon, kept while the store is away, bounded, flushed at a stop."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import gevent
import pytest

from proxy.audit import writer as module
from proxy.audit.denials import DenialAggregator
from proxy.audit.writer import AuditWriter
from proxy.core.errors import StoreError
from proxy.store.audit import AuditEntry, PendingEntry
from tests.support.wait import wait_until


class Store:
    """``failing`` is raised instead of keeping; ``hangs`` waits for ever."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.written: list[PendingEntry] = []
        self.failing: Exception | None = None
        self.hangs = False

    def write(self, drafts: Sequence[PendingEntry]) -> list[AuditEntry]:
        if self.hangs:
            gevent.sleep(60)
        if self.failing is not None:
            raise self.failing
        self.batches.append(len(drafts))
        self.written += drafts
        moment = datetime.now(UTC)
        return [
            AuditEntry(1, d.id, moment, d.action, d.actor, d.outcome, None, None, "", "", {}, "")
            for d in drafts
        ]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def told() -> list[AuditEntry]:
    return []


@pytest.fixture
def recorder(
    store: Store, told: list[AuditEntry], monkeypatch: pytest.MonkeyPatch
) -> Iterator[AuditWriter]:
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    recorder = AuditWriter(store, DenialAggregator(), told.append)
    recorder.start()
    yield recorder
    recorder.close(0.1)


def put(recorder: AuditWriter, count: int) -> list[PendingEntry]:
    drafts = [PendingEntry("project.update", "cli") for _ in range(count)]
    for draft in drafts:
        recorder.put(draft)
    return drafts


def test_written_in_order_in_small_batches_and_published(
    recorder: AuditWriter, store: Store, told: list[AuditEntry]
) -> None:
    drafts = put(recorder, 45)
    wait_until(lambda: len(told) == 45)
    assert store.written == drafts
    assert [entry.id for entry in told] == [draft.id for draft in drafts]
    assert store.batches == [20, 20, 5]


def test_what_comes_in_meanwhile_waits_for_the_next_time(store: Store) -> None:
    recorder = AuditWriter(store, DenialAggregator(), lambda entry: put(recorder, 1) and None)
    put(recorder, 2)
    recorder.flush()
    assert store.batches == [2]
    assert len(recorder) == 2
    recorder.flush()
    assert store.batches == [2, 2]


def test_what_was_refused_is_asked_for(recorder: AuditWriter, told: list[AuditEntry]) -> None:
    recorder.denials.add("/manage", "::1", "invalid_management_token")
    wait_until(lambda: [entry.action for entry in told] == ["auth.denied"])


def test_kept_while_the_store_is_away(
    recorder: AuditWriter,
    store: Store,
    told: list[AuditEntry],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store.failing = StoreError()
    drafts = put(recorder, 3)
    wait_until(lambda: "are kept" in caplog.text)
    gevent.sleep(0.05)
    assert caplog.text.count("are kept") == 1
    store.failing = None
    wait_until(lambda: len(told) == 3)
    assert store.written == drafts


def test_bounded(recorder: AuditWriter, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.failing = StoreError()
    drafts = put(recorder, module._MAX_WAITING + 7)
    assert (len(recorder), recorder.dropped) == (module._MAX_WAITING, 7)
    assert caplog.text.count("entries are dropped") == 1
    store.failing = None
    recorder.close(5)
    assert store.written == drafts[: module._MAX_WAITING]
    assert "7 entries could not be written" in caplog.text
    assert recorder.dropped == 7


def test_a_defect_does_not_stop_the_rest(
    recorder: AuditWriter, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.failing = TypeError("no")
    put(recorder, 2)
    wait_until(lambda: recorder.dropped == 2)
    store.failing = None
    (draft,) = put(recorder, 1)
    wait_until(lambda: store.written == [draft])
    assert "2 entries cannot be written and are dropped" in caplog.text


def test_a_publisher_that_fails_does_not_stop_the_rest(
    recorder: AuditWriter, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    tell = recorder.publish

    def defect(entry: AuditEntry) -> None:
        raise ZeroDivisionError

    recorder.publish = defect
    put(recorder, 1)
    wait_until(lambda: "audit writer: a flush failed" in caplog.text)
    recorder.publish = tell
    (draft,) = put(recorder, 1)
    wait_until(lambda: draft in store.written)


def test_a_stop_flushes(recorder: AuditWriter, store: Store) -> None:
    module._INTERVAL = 60  # type: ignore[misc]
    drafts = put(recorder, 3)
    recorder.denials.add("/manage", "::1", "invalid_management_token")
    recorder.close(5)
    assert store.written[:3] == drafts
    assert len(store.written) == 4


def test_a_stop_flushes_also_what_comes_meanwhile(store: Store) -> None:
    def tell(entry: AuditEntry) -> None:
        if len(store.written) < 3:
            put(recorder, 1)

    recorder = AuditWriter(store, DenialAggregator(), tell)
    recorder.start()
    put(recorder, 1)
    recorder.close(1)
    assert store.batches == [1, 1, 1]
    assert recorder.dropped == 0


def test_a_stop_does_not_wait_for_a_store_that_hangs(
    recorder: AuditWriter, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.hangs = True
    put(recorder, 2)
    gevent.sleep(0.05)
    began = time.monotonic()
    recorder.close(0.1)
    assert time.monotonic() - began < 5
    assert "2 entries could not be written" in caplog.text
    assert recorder.dropped == 2


def test_without_a_start_there_is_no_end(store: Store) -> None:
    """As where clients bring their own keys, and there is no database."""
    recorder = AuditWriter(store, DenialAggregator(), lambda entry: None)
    put(recorder, 1)
    recorder.close(1)
    assert store.written == []
