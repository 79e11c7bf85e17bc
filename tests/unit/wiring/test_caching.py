"""The response cache of a worker whose store cannot be used: a request is never refused for it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.events.queue import EventQueue
from proxy.gateway.inflight import InFlightRequests
from proxy.store.cache_purges import Purge
from proxy.store.migrate import Migrator
from proxy.wiring.accounts import AccountServices
from proxy.wiring.cache import FOLDER
from proxy.wiring.caching import FLIGHTS_FOLDER, WorkerCaching
from tests.support.cached_responses import cache_key, cached_response
from tests.support.installation import settings
from tests.support.scripted_source import END, ScriptedSource, fetched


class Worker:
    def __init__(self, folder: Path) -> None:
        self.settings = settings(folder, CACHE_TTL="60")
        self.settings.make_data_dir()
        self.accounts = AccountServices(self.settings, InFlightRequests(), EventQueue(10))
        Migrator(self.accounts.database).migrate()
        self.now = 1000.0
        self.caching = WorkerCaching(self.settings, self.accounts, clock=lambda: self.now)

    def close(self) -> None:
        self.caching.close(10)
        self.accounts.close()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path)
    yield made
    made.close()


def test_a_folder_that_cannot_be_made_makes_every_look_up_a_miss(worker: Worker) -> None:
    for name in (FOLDER, FLIGHTS_FOLDER):
        (worker.settings.data_dir / name).write_text("in the way")
    worker.caching.purges.add(Purge(prefix="/v1/"))
    opened = worker.caching.open()
    assert opened is not None
    opened.cache.put(cache_key("a"), cached_response())
    assert opened.cache.flush(20)
    assert opened.cache.get(cache_key("a")) is None
    assert opened.cache.counts().rejected["store_unavailable"] == 1
    reader = worker.caching.flights.join_or_begin(
        cache_key("a"), lambda: fetched(ScriptedSource(b"x", END))
    )
    assert reader.read() == b"x"
    reader.close()


def test_a_defect_while_the_cache_is_opened_is_logged_once_and_tried_again(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[Any] = []

    def follow(_: object, cache: Any) -> None:
        tries.append(cache)
        raise TypeError("a purge of a later version")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr("proxy.cache.purge_follower.PurgeFollower.follow", follow)
        for _ in range(3):
            assert worker.caching.open() is None
        assert len(tries) == 1
        worker.now += 10
        assert worker.caching.open() is None
    assert len(tries) == 2
    assert caplog.text.count("it cannot be opened") == 1
    worker.now += 10
    opened = worker.caching.open()
    assert opened is not None
    opened.cache.put(cache_key("a"), cached_response(stored_at=2e9))
    assert opened.cache.flush(20)
    assert opened.cache.size().items == 1
