"""The cache of grants: fresh, stale, unknown; one read at a time; no value from before a change."""

import time
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

from proxy.auth.cache import UNKNOWN_SECONDS, GrantCache
from proxy.core.errors import StoreError
from tests.support.clock import Clock


class Source:
    """Returns `value`, or raises it; counts; can be held up."""

    def __init__(self, value: object = "one") -> None:
        self.value = value
        self.asked = 0
        self.open = Event()
        self.open.set()

    def __call__(self, key: str) -> str | None:
        self.asked += 1
        value = self.value
        self.open.wait()
        if isinstance(value, BaseException):
            raise value
        assert value is None or isinstance(value, str)
        return value


def make(
    source: Source, clock: Clock, *, ttl: float = 10, grace: float = 100, size: int = 100
) -> GrantCache[str]:
    return GrantCache(source, size=size, ttl=ttl, grace=grace, clock=clock)


def test_fresh_is_not_asked_for() -> None:
    source, clock = Source(), Clock()
    cache = make(source, clock)
    assert [cache.get("k"), cache.get("k")] == ["one", "one"]
    clock.now += 9.9
    assert (cache.get("k"), source.asked) == ("one", 1)
    source.value = "two"
    clock.now += 0.2
    assert (cache.get("k"), source.asked) == ("two", 2)


def test_one_question_for_all_that_wait() -> None:
    source, clock = Source(), Clock()
    source.open.clear()
    cache = make(source, clock)
    waiting = [gevent.spawn(cache.get, "k") for _ in range(20)]
    gevent.sleep(0)
    assert source.asked == 1
    source.open.set()
    gevent.joinall(waiting, timeout=20)
    assert {greenlet.value for greenlet in waiting} == {"one"}
    assert source.asked == 1


def test_a_failure_reaches_all_that_wait_and_is_not_kept() -> None:
    source, clock = Source(StoreError()), Clock()
    source.open.clear()
    cache = make(source, clock)

    def ask() -> str:
        try:
            return str(cache.get("k"))
        except StoreError:
            return "away"

    waiting = [gevent.spawn(ask) for _ in range(5)]
    gevent.sleep(0)
    source.open.set()
    gevent.joinall(waiting, timeout=20)
    assert {greenlet.value for greenlet in waiting} == {"away"}
    source.value = "one"
    assert cache.get("k") == "one"


def test_a_killed_reader_leaves_no_one_waiting() -> None:
    source, clock = Source(), Clock()
    source.open.clear()
    cache = make(source, clock)
    reader = gevent.spawn(cache.get, "k")
    gevent.sleep(0)
    waiter = gevent.spawn(cache.get, "k")
    gevent.sleep(0)
    reader.kill()
    with pytest.raises(StoreError):
        waiter.get(timeout=20)
    source.open.set()
    assert cache.get("k") == "one"


def test_unknown_is_remembered_briefly_and_bounded() -> None:
    source, clock = Source(None), Clock()
    cache = make(source, clock, size=3)
    assert [cache.get("k"), cache.get("k")] == [None, None]
    assert source.asked == 1
    for number in range(10):
        cache.get(f"other-{number}")
    assert len(cache._unknown) <= 3
    clock.now += UNKNOWN_SECONDS
    source.value = "one"
    assert cache.get("k") == "one"


def test_stale_goes_on_while_the_store_is_away_with_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.runtime.backoff.random.uniform", lambda low, high: high)
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    source.value = StoreError()
    clock.now += 11
    asked = []
    for _ in range(60):
        assert cache.get("k") == "one"
        assert cache.get("k") == "one"
        asked.append(source.asked)
        clock.now += 0.5
    assert len(set(asked)) < 15, "refreshes back off"
    source.value = "two"
    clock.now += 5
    assert cache.get("k") == "two"


def test_stale_ends_with_its_grace() -> None:
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    source.value = StoreError()
    clock.now += 109.9
    assert cache.get("k") == "one"
    clock.now += 0.2
    with pytest.raises(StoreError):
        cache.get("k")


def test_a_token_that_is_gone_when_the_store_is_back() -> None:
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    source.value = None
    clock.now += 11
    assert cache.get("k") is None


@pytest.mark.parametrize("matches", [lambda value: True, lambda value: value == "one"])
def test_evicted_is_asked_for_again(matches: Callable[[str], bool]) -> None:
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    assert cache.evict(matches) == 1
    cache.get("k")
    assert source.asked == 2


def test_a_read_from_before_an_eviction_is_not_kept() -> None:
    """It may have been read before the change that caused the eviction."""
    source, clock = Source("before"), Clock()
    source.open.clear()
    cache = make(source, clock)
    reader = gevent.spawn(cache.get, "k")
    gevent.sleep(0)
    cache.evict(lambda value: False)
    source.value = "after"
    late = gevent.spawn(cache.get, "k")
    gevent.sleep(0)
    source.open.set()
    assert reader.get(timeout=20) == "before"
    assert late.get(timeout=20) == "after", "asked after the change"
    assert cache.get("k") == "after"


def test_a_refresh_that_is_long_in_coming_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.auth.cache._REFRESH_TIMEOUT", 0.01)
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    clock.now += 11
    source.value = "two"
    source.open.clear()
    assert [cache.get("k"), cache.get("k")] == ["one", "one"]
    assert source.asked == 2
    source.open.set()
    gevent.sleep(0.01)
    assert cache.get("k") == "two", "its result counts when it comes"


def test_while_the_store_hangs_one_wait_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.auth.cache._REFRESH_TIMEOUT", 0.01)
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    source.open.clear()
    clock.now += 11
    assert cache.get("k") == "one"
    monkeypatch.setattr("proxy.auth.cache._REFRESH_TIMEOUT", 5)
    began = time.monotonic()
    clock.now += 11
    assert cache.get("k") == "one"
    assert time.monotonic() - began < 5
    source.open.set()


def test_those_who_wait_together_fail_once() -> None:
    """Or ten requests at once would make a hiccup of the store a long pause."""
    source, clock = Source(), Clock()
    cache = make(source, clock)
    cache.get("k")
    clock.now += 11
    source.open.clear()
    source.value = StoreError()
    waiting = [gevent.spawn(cache.get, "k") for _ in range(10)]
    gevent.sleep(0)
    source.open.set()
    gevent.joinall(waiting, timeout=20, raise_error=True)
    clock.now += 0.6
    source.value = "two"
    assert cache.get("k") == "two"


def test_lookups_are_counted_by_what_they_found() -> None:
    source, clock = Source(), Clock()
    cache = make(source, clock)
    for _ in range(3):
        cache.get("k")
    clock.now += 11
    cache.get("k")
    source.value = None
    for _ in range(4):
        cache.get("nobody")
    assert (cache.misses, cache.hits, cache.refreshes, cache.refusals) == (2, 2, 1, 3)
    assert len(cache) == 1


def test_renewing_asks_whatever_is_known() -> None:
    source, clock = Source(), Clock()
    cache = make(source, clock)
    assert cache.get("k") == "one"
    source.value = "two"
    assert cache.refresh("k") == "two"
    assert (cache.get("k"), source.asked) == ("two", 2)
    source.value = StoreError()
    with pytest.raises(StoreError):
        cache.refresh("k")
    assert cache.get("k") == "two"
    source.value = None
    assert cache.refresh("k") is None
    assert cache.get("k") is None


class Others:
    """What other workers know: value and seconds for which it may be used."""

    def __init__(self, known: dict[str, tuple[str, float]] | None = None) -> None:
        self.known = known or {}
        self.asked: list[str] = []

    def __call__(self, key: str) -> tuple[str, float] | None:
        self.asked.append(key)
        return self.known.get(key)


def with_others(source: Source, others: Others, clock: Clock, ttl: float = 10) -> GrantCache[str]:
    return GrantCache(source, size=9, ttl=ttl, grace=100, clock=clock, recall=others)


class TestWhatOthersKnow:
    def test_is_asked_for_only_while_the_store_is_away(self) -> None:
        source, others, clock = Source(), Others({"k": ("theirs", 50)}), Clock()
        cache = with_others(source, others, clock)
        assert cache.get("k") == "one"
        source.value = None
        assert cache.get("unknown") is None
        assert others.asked == []
        source.value = StoreError()
        cache.evict(lambda value: True)
        assert cache.get("k") == "theirs"

    def test_counts_for_a_while_and_is_asked_for_again(self) -> None:
        source, others, clock = Source(StoreError()), Others({"k": ("theirs", 50)}), Clock()
        cache = with_others(source, others, clock)
        assert [cache.get("k"), cache.get("k")] == ["theirs", "theirs"]
        assert (len(others.asked), source.asked) == (1, 1)
        clock.now += 1
        assert cache.get("k") == "theirs"
        assert source.asked == 2, "the store is tried again"
        source.value = "one"
        clock.now += 10
        assert cache.get("k") == "one"

    def test_ends_when_it_is_too_old(self) -> None:
        source, others, clock = Source(StoreError()), Others({"k": ("theirs", 50)}), Clock()
        cache = with_others(source, others, clock)
        for second in range(50):
            clock.now = second
            assert cache.get("k") == "theirs"
        others.known.clear()
        clock.now = 50
        for _ in range(2):
            with pytest.raises(StoreError):
                cache.get("k")
        assert len(cache) == 0

    def test_does_not_help_where_there_is_nothing(self) -> None:
        cache = with_others(Source(StoreError()), Others(), Clock())
        with pytest.raises(StoreError):
            cache.get("k")

    def test_helps_while_the_store_hangs_and_the_result_is_kept(self) -> None:
        source, others, clock = Source(), Others({"k": ("theirs", 50)}), Clock()
        source.open.clear()
        cache = with_others(source, others, clock)
        began = time.monotonic()
        assert cache.get("k") == "theirs"
        waiting = gevent.spawn(cache.get, "not theirs")
        assert time.monotonic() - began < 20
        gevent.sleep(0.1)
        assert not waiting.ready(), "an unknown one waits for the store"
        source.open.set()
        assert waiting.get(timeout=20) == "one"
        clock.now += 1
        assert cache.get("k") == "one"

    def test_is_not_used_when_something_changed_meanwhile(self) -> None:
        source, clock = Source(StoreError()), Clock()

        def recall(key: str) -> tuple[str, float] | None:
            cache.evict(lambda value: True)
            return ("theirs", 50.0)

        cache = GrantCache(source, size=9, ttl=10, grace=100, clock=clock, recall=recall)
        with pytest.raises(StoreError):
            cache.get("k")
        assert len(cache) == 0
