"""Uses of tokens: merged, kept while the store fails, exact in the end."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import gevent
import pytest
from gevent.event import Event

from proxy.core.errors import StoreError
from proxy.quota import usage_counter as counts_module
from proxy.quota.usage_counter import UsageCounter
from tests.support.wait import wait_until


class Store:
    """Adds up; ``failing`` is raised instead, ``gate`` is waited for before anything is kept."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int, int, int, datetime]]] = []
        self.sums: Counter[str] = Counter()
        self.spent: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.last: dict[str, datetime] = {}
        self.failing: BaseException | None = None
        self.gate: Event | None = None
        self.entered = Event()

    def add_counts(self, entries: Sequence[tuple[str, int, int, int, datetime]]) -> None:
        self.entered.set()
        if self.failing is not None:
            raise self.failing
        batch = list(entries)
        if self.gate is not None:
            # As on the database's own thread: it is committed whether somebody waits or not.
            gevent.spawn(self._keep_later, batch)
            self.gate.wait()
            return
        self._keep(batch)

    def _keep_later(self, batch: list[tuple[str, int, int, int, datetime]]) -> None:
        assert self.gate is not None
        self.gate.wait()
        self._keep(batch)

    def _keep(self, batch: list[tuple[str, int, int, int, datetime]]) -> None:
        self.batches.append(batch)
        for token, count, tokens, hits, at in batch:
            self.sums[token] += count
            self.spent[token] += tokens
            self.hits[token] += hits
            self.last[token] = max(at, self.last.get(token, at))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def counts(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[UsageCounter]:
    monkeypatch.setattr(counts_module, "_INTERVAL", 0.01)
    counts = UsageCounter(store)
    yield counts
    store.failing = None
    counts.close(1)


def test_uses_are_merged(store: Store, counts: UsageCounter) -> None:
    before = datetime.now(UTC)
    for token in ("a", "b", "a", "a"):
        counts.add(token)
    counts.flush()
    (batch,) = store.batches
    assert {token: count for token, count, *_ in batch} == {"a": 3, "b": 1}
    assert all(before <= at <= datetime.now(UTC) for *_, at in batch)
    counts.flush()
    assert len(store.batches) == 1


def test_nothing_is_written_on_the_path(store: Store, counts: UsageCounter) -> None:
    counts.add("a")
    assert store.batches == []


def test_batches_are_small(store: Store, counts: UsageCounter) -> None:
    for number in range(1201):
        counts.add(f"token-{number}")
    counts.flush()
    assert [len(batch) for batch in store.batches] == [500, 500, 201]
    assert len(store.sums) == 1201


def test_what_comes_in_meanwhile_waits_for_the_next_time(
    store: Store, counts: UsageCounter
) -> None:
    # A busy worker: each transaction takes as long as a few requests.
    keep = store.add_counts

    def add_counts(entries: Sequence[tuple[str, int, int, int, datetime]]) -> None:
        assert len(store.batches) < 9, "it never ends"
        for token in ("a", "b"):
            counts.add(token)
        keep(entries)

    store.add_counts = add_counts  # type: ignore[method-assign]
    counts.add("a")
    counts.flush()
    assert store.sums == {"a": 1}
    counts.flush()
    assert store.sums == {"a": 2, "b": 1}
    assert len(store.batches) == 2
    store.add_counts = keep  # type: ignore[method-assign]
    counts.close(1)
    assert store.sums == {"a": 3, "b": 2}


@pytest.mark.parametrize("failure", [StoreError(), RuntimeError("a defect")])
def test_what_a_failing_store_refused_is_kept(
    store: Store,
    counts: UsageCounter,
    failure: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts.add("a")
    store.failing = failure
    counts.flush()
    counts.flush()
    assert len(caplog.records) == 1, "not once a second"
    counts.add("a")
    counts.add("b")
    store.failing = None
    counts.flush()
    assert store.sums == {"a": 2, "b": 1}
    store.failing = failure
    counts.add("a")
    counts.flush()
    kept, again, kept_once_more = caplog.messages
    assert "uses are kept" in kept
    assert kept_once_more == kept
    assert "uses are written again" in again


def test_the_later_time_wins_when_a_batch_comes_back(store: Store, counts: UsageCounter) -> None:
    counts.add("a")
    store.failing = StoreError()
    counts.flush()
    between = datetime.now(UTC)
    counts.add("a")
    store.failing = None
    counts.flush()
    assert store.last["a"] >= between


def test_it_runs_by_itself_and_survives_failures(store: Store, counts: UsageCounter) -> None:
    counts.start()
    store.failing = RuntimeError("a defect")
    counts.add("a")
    assert store.entered.wait(2)
    store.failing = None
    with gevent.Timeout(2):
        while not store.sums:
            gevent.sleep(0.005)
    assert store.sums == {"a": 1}


def test_close_writes_the_rest(store: Store, counts: UsageCounter) -> None:
    counts.start()
    for _ in range(7):
        counts.add("a")
    counts.close(1)
    assert store.sums == {"a": 7}
    counts.close(1)
    assert store.sums == {"a": 7}


def test_close_does_not_count_twice_what_is_just_being_written(
    store: Store, counts: UsageCounter
) -> None:
    store.gate = Event()
    counts.start()
    counts.add("a")
    assert store.entered.wait(2)
    gevent.spawn_later(0.05, store.gate.set)
    counts.add("a")
    counts.close(2)
    gevent.sleep(0.02)
    assert store.sums == {"a": 2}


def test_close_keeps_its_deadline_and_logs_what_is_lost(
    store: Store, counts: UsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    store.gate = Event()
    counts.add("a")
    began = time.monotonic()
    counts.close(0.05)
    assert time.monotonic() - began < 1
    assert "1 access tokens were lost" in caplog.text
    store.gate.set()
    store.gate = None


def test_close_logs_what_a_failing_store_refused(
    store: Store, counts: UsageCounter, caplog: pytest.LogCaptureFixture
) -> None:
    store.failing = StoreError()
    counts.add("a")
    counts.close(1)
    assert "tokens were lost" in caplog.text


def test_llm_tokens_are_added_up_and_kept_while_the_store_fails(
    store: Store, counts: UsageCounter
) -> None:
    counts.add("a")
    counts.spend("a", 30)
    counts.spend("b", 5)
    assert (counts.unwritten("a"), counts.unwritten("b"), counts.unwritten("c")) == (30, 5, 0)
    store.failing = StoreError()
    counts.flush()
    counts.spend("a", 12)
    assert counts.unwritten("a") == 42
    store.failing = None
    counts.flush()
    assert counts.unwritten("a") == 0
    assert (store.sums, store.spent) == ({"a": 1, "b": 0}, {"a": 42, "b": 5})


def test_cache_hits_are_no_requests_and_kept_while_the_store_fails(
    store: Store, counts: UsageCounter
) -> None:
    before = datetime.now(UTC)
    counts.add("a")
    counts.hit("a")
    counts.hit("b")
    store.failing = StoreError()
    counts.flush()
    counts.hit("a")
    store.failing = None
    counts.flush()
    assert (store.sums, store.hits) == ({"a": 1, "b": 0}, {"a": 2, "b": 1})
    assert store.last["b"] >= before


def test_what_comes_after_a_flush_comes_only_when_all_is_written(
    store: Store, counts: UsageCounter
) -> None:
    unwritten: list[int] = []
    store.failing = StoreError()
    counts.spend("a", 7)
    counts.start(after_flush=lambda: unwritten.append(counts.unwritten("a")))
    assert store.entered.wait(2)
    gevent.sleep(0.05)
    assert unwritten == []
    store.failing = None
    wait_until(lambda: unwritten != [])
    assert unwritten[0] == 0
