"""Purges of other nodes, applied to the cache of this worker."""

import logging
from collections.abc import Iterator

import pytest

from proxy.cache import purge_follower as module
from proxy.cache.backends.base import PurgeIncomplete, Selection
from proxy.cache.purge_follower import PurgeFollower
from proxy.core.errors import ProxyError, StoreError
from proxy.store.cache_purges import PURGES_REVISION, LoggedPurge, Purge
from tests.support.wait import wait_until

NOW = 1_800_000_000_000_000
DAY = 86_400_000_000


class Log:
    """The purges of all nodes, two in a page."""

    def __init__(self) -> None:
        self.logged: list[LoggedPurge] = []
        self.error: ProxyError | None = None
        self.asked = 0

    def add(self, moment: int, **given: str) -> None:
        self.logged.append(LoggedPurge(moment, Purge(**given)))

    def now(self) -> int:
        if self.error is not None:
            raise self.error
        return NOW

    def since(self, moment: int) -> list[LoggedPurge]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return [each for each in self.logged if each.moment > moment][:2]


class Cache:
    def __init__(self) -> None:
        self.purged: list[Selection] = []
        self.error: ProxyError | None = None

    def purge(self, selection: Selection) -> int:
        if self.error is not None:
            raise self.error
        self.purged.append(selection)
        return 1

    @property
    def keys(self) -> list[str | None]:
        return [each.name for each in self.purged]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.fixture
def follower(log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[PurgeFollower]:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    follower = PurgeFollower(log, lifetime=86_400.0)
    yield follower
    follower.close()


def test_what_was_purged_while_no_worker_was_there_is_applied_at_once(
    follower: PurgeFollower, log: Log, cache: Cache
) -> None:
    log.add(NOW - DAY - 1, key="too old for any entry")
    for number in range(5):  # several pages
        log.add(NOW - 5 + number, key=f"k{number}")
    follower.follow(cache)
    assert cache.keys == ["k0", "k1", "k2", "k3", "k4"]


def test_each_later_purge_is_applied_once(follower: PurgeFollower, log: Log, cache: Cache) -> None:
    follower.follow(cache)
    log.add(NOW + 1, project_id="p", method="GET", target="/v1/models")
    follower.changed({"another-id"})
    follower.changed({PURGES_REVISION})
    wait_until(lambda: cache.purged != [])
    follower.changed(None)
    log.add(NOW + 2, prefix="/v1/")
    follower.changed({"x", PURGES_REVISION})
    wait_until(lambda: len(cache.purged) == 2)
    assert cache.purged == [
        Selection(scope="p", method="GET", target="/v1/models"),
        Selection(prefix="/v1/"),
    ]


def test_a_worker_without_a_cache_asks_nothing(follower: PurgeFollower, log: Log) -> None:
    follower.changed({PURGES_REVISION})
    follower.changed(None)
    assert log.asked == 0


def test_other_changes_ask_nothing(follower: PurgeFollower, log: Log, cache: Cache) -> None:
    follower.follow(cache)
    asked = log.asked
    follower.changed({"a-project"})
    log.add(NOW + 1, key="k")
    follower.changed({PURGES_REVISION})
    wait_until(lambda: cache.keys == ["k"])
    assert log.asked == asked + 2  # the purge, and that there is no other


@pytest.mark.parametrize("part", ["log", "cache"])
def test_what_fails_is_tried_again(
    part: str, follower: PurgeFollower, log: Log, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log.add(NOW - 1, key="k")
    failing = {"log": log, "cache": cache}[part]
    failing.error = StoreError() if part == "log" else PurgeIncomplete("away")
    follower.follow(cache)
    assert "purges of other nodes are not applied" in caplog.text
    assert cache.keys == []
    failing.error = None
    wait_until(lambda: cache.keys == ["k"])
    wait_until(lambda: "purges are applied again" in caplog.text)
