"""The database's health: ready from the first good check on."""

from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from proxy.core.errors import SchemaOutdated, StoreError
from proxy.store import health as health_module
from proxy.store.dialects import ReadOnly
from proxy.store.health import DatabaseHealth


class Check:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0
        self.called = Event()

    def __call__(self) -> None:
        self.calls += 1
        self.called.set()
        if self.error is not None:
            raise self.error


@pytest.fixture
def check() -> Check:
    return Check()


@pytest.fixture
def health(check: Check, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseHealth]:
    monkeypatch.setattr(health_module, "_UNTIL_FIRST", 0.01)
    monkeypatch.setattr(health_module, "_INTERVAL", 0.01)
    health = DatabaseHealth(check)
    yield health
    health.close()


def test_nothing_is_known_before_the_first_check(health: DatabaseHealth) -> None:
    assert (health.ready, health.state) == (False, "not checked yet")


def test_once_ready_a_node_stays_ready(
    health: DatabaseHealth, check: Check, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    check.error = SchemaOutdated("The schema is old.")
    health.check()
    health.check()
    assert (health.ready, health.state) == (False, "The schema is old.")
    check.error = None
    health.check()
    assert (health.ready, health.state) == (True, "ok")
    check.error = StoreError()
    health.check()
    assert (health.ready, health.state) == (True, "unavailable")
    check.error = None
    health.check()
    assert health.state == "ok"
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO", "ERROR", "INFO"]


def test_the_cause_goes_to_the_log_and_not_to_ready(
    health: DatabaseHealth, check: Check, caplog: pytest.LogCaptureFixture
) -> None:
    check.error = StoreError()
    check.error.__cause__ = OSError("host db.internal refused")
    health.check()
    assert health.state == "unavailable"
    assert "db.internal" in caplog.text


def test_checks_continue_after_a_defect(
    health: DatabaseHealth, check: Check, caplog: pytest.LogCaptureFixture
) -> None:
    check.error = ValueError("private")
    health.start()
    assert check.called.wait(2)
    gevent.sleep(0)
    assert (health.ready, health.state) == (False, "unavailable")
    assert "private" in caplog.text
    check.error = None
    with gevent.Timeout(2):
        while not health.ready:
            gevent.sleep(0.005)


def test_close_ends_the_checks(health: DatabaseHealth, check: Check) -> None:
    health.close()  # never started
    health.start()
    assert check.called.wait(2)
    health.close()
    calls = check.calls
    gevent.sleep(0.05)
    assert check.calls == calls


class TestKeys:
    def test_unreadable_keys_are_logged_once_and_shown_until_readable(
        self, check: Check, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        said = ["3 of 5 rows cannot be read: why", "3 of 5 rows cannot be read: why", ""]
        health = DatabaseHealth(check, lambda: said.pop(0))
        health.check()
        health.check()
        assert health.keys == "3 of 5 rows cannot be read: why"
        assert (health.ready, health.state) == (True, "ok"), "other projects are served"
        health.check()
        assert health.keys == ""
        keys = [r for r in caplog.records if r.getMessage().startswith("keys:")]
        assert [record.levelname for record in keys] == ["ERROR", "INFO"]

    def test_readable_keys_are_checked_rarely(
        self, check: Check, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health_module, "_KEYS_EVERY", 3)
        looks = []

        def look() -> str:
            looks.append(check.calls)
            return ""

        health = DatabaseHealth(check, look)
        for _ in range(7):
            health.check()
        assert looks == [1, 4, 7]

    def test_a_failed_count_of_keys_is_no_failure_of_the_database(
        self, check: Check, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> str:
            raise StoreError

        health = DatabaseHealth(check, fail)
        health.check()
        assert (health.state, health.keys) == ("ok", "")
        assert "cannot be counted" in caplog.text
        check.error = StoreError()
        health.check()
        assert health.state == "unavailable"


class TestWrites:
    def test_a_read_only_database_is_reported_until_it_takes_writes(
        self, check: Check, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        said: list[Exception | None] = [ReadOnly("takes no writes"), StoreError(), None]

        def check_writes() -> None:
            if error := said.pop(0):
                raise error

        health = DatabaseHealth(check, check_writes=check_writes)
        health.check()
        assert (health.ready, health.state) == (True, "ok"), "it is read, and tokens are known"
        assert health.writes == "writes fail: the server is read-only"
        health.check()
        assert health.writes == "writes fail"
        health.check()
        assert health.writes == ""
        assert [r.levelname for r in caplog.records] == ["INFO", "ERROR", "ERROR", "INFO"]

    def test_an_unreachable_database_is_not_reported_as_read_only(self, check: Check) -> None:
        health = DatabaseHealth(check, check_writes=check)
        health.check()
        check.error = StoreError()
        health.check()
        assert (health.state, health.writes) == ("unavailable", "")


def test_a_failed_query_brings_an_early_check(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "_INTERVAL", 600.0)
    health = DatabaseHealth(check)
    health.start()
    try:
        with gevent.Timeout(20):
            while not health.ready:
                gevent.sleep(0.005)
            check.error = StoreError()
            health.hurry()
            while not health.away:
                gevent.sleep(0.005)
        assert health.state == "unavailable"
    finally:
        health.close()
