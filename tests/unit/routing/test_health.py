"""What workers share of the health of keys and targets (``proxy/routing/health.py``)."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import gevent
import pytest

from proxy.core.errors import StoreError
from proxy.providers.records import ProviderKeyRecord, ProviderKeySecret
from proxy.routing.circuit_breaker import CircuitBreaker, State, Verdict
from proxy.routing.health import WAKE_UP, HealthBoard
from proxy.routing.key_pool import Health, KeyPool
from proxy.store.key_health import HealthChanges, KeyHealthRecord, KeyReport
from proxy.store.rows import from_micros, to_micros
from tests.support.clock import Clock
from tests.support.routing_records import available_in

MODEL = "gpt-5"
START = 1_800_000_000.0


class Table:
    """The database's side: sums of reports, by a clock of its own (seconds since the epoch)."""

    def __init__(self) -> None:
        self.clock = Clock(START)
        self.rows: dict[tuple[str, str], KeyHealthRecord] = {}
        self.written: list[list[KeyReport]] = []
        self.reads: list[int] = []
        self.failing = False
        self._changes = 0

    def now(self) -> int:
        self._changes += 1  # no two changes at the same microsecond
        return int(self.clock.now * 1e6) + self._changes

    def write(self, reports: list[KeyReport]) -> None:
        self._check()
        self.written.append(reports)
        for report in reports:
            now = self.now()
            cell = (report.key_id, report.model)
            row = self.rows.get(cell)
            until = [] if report.cooling is None else [now + int(report.cooling * 1e6)]
            if row is not None and row.cooling_until is not None:
                until.append(to_micros(row.cooling_until))
            self.rows[cell] = KeyHealthRecord(
                *cell,
                cooling_until=from_micros(max(until)) if until else None,
                last_status=report.status,
                last_used_at=None,
                success_count=report.success_count + (row.success_count if row else 0),
                failure_count=report.failure_count + (row.failure_count if row else 0),
                reset_at=row.reset_at if row else None,
                updated_at=from_micros(now),
            )

    def read(self, since: int = 0) -> HealthChanges:
        self._check()
        self.reads.append(since)
        found = [row for row in self.rows.values() if to_micros(row.updated_at) > since]
        found.sort(key=lambda row: row.updated_at)
        return HealthChanges(self.now(), found)

    def reset(self, key_id: str) -> None:
        now = from_micros(self.now())
        self.rows.setdefault(
            (key_id, ""), KeyHealthRecord(key_id, "", None, None, None, 0, 0, None, now)
        )
        for cell, row in self.rows.items():
            if cell[0] == key_id:
                counts = (row.success_count, row.failure_count)
                self.rows[cell] = KeyHealthRecord(*cell, None, None, None, *counts, now, now)

    def _check(self) -> None:
        if self.failing:
            raise StoreError("away")


def key(name: str, value: str = "") -> ProviderKeySecret:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    record = ProviderKeyRecord(name, "p", name, "sk-…", 1, (), True, moment, moment)
    return ProviderKeySecret(record, value or f"sk-{name}")


class Worker:
    """One worker, with two keys and one breaker. Its clock has nothing to do with the others'."""

    def __init__(self, table: Table, now: float, interval: float = 1.0) -> None:
        self.clock = Clock(now)
        self.announced = 0
        self.board = HealthBoard(
            table,
            interval=interval,
            clock=self.clock,
            breaker=lambda provider, model: self.breakers.get((provider, model)),
            announce=self.announce,
        )
        self.pool = self.made()
        self.breakers = {
            ("p", MODEL): CircuitBreaker(
                self.clock, lambda: 0.5, lambda seconds: self.board.opened("p", MODEL, seconds)
            )
        }
        self.board.set_pools([self.pool])

    def made(self, *keys: ProviderKeySecret) -> KeyPool:
        return KeyPool(
            keys or [key("a"), key("b")],
            "priority",
            self.clock,
            lambda: 0.0,
            cooled=self.board.cooled,
        )

    def announce(self) -> None:
        self.announced += 1

    @property
    def free(self) -> str:
        return "".join(h.key_id for h in self.pool.health() if h.health is Health.HEALTHY)

    def send(self, verdict: Verdict) -> None:
        breaker = self.breakers["p", MODEL]
        permit = breaker.ok(lone=False)
        assert permit is not None
        breaker.record(permit, verdict)


class Cluster:
    """Two workers that exchange when they are told to."""

    def __init__(self) -> None:
        self.table = Table()
        self.one, self.two = Worker(self.table, 50.0), Worker(self.table, 7_000_000.0)

    def wait(self, seconds: float) -> None:
        for clock in (self.table.clock, self.one.clock, self.two.clock):
            clock.now += seconds

    def exchange(self) -> None:
        for worker in (self.one, self.two, self.one):
            worker.board.exchange()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    for worker in (cluster.one, cluster.two):
        worker.board.set_pools([])


def test_a_cooldown_holds_in_all_workers(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", MODEL, 30.0, 429)
    cluster.exchange()
    assert available_in(cluster.two.pool, MODEL) == 0.0
    assert cluster.two.free == "b"
    [health, _] = cluster.two.pool.health()
    assert health.health is Health.COOLING
    assert health.cooling_for == pytest.approx(30.0, abs=0.001)
    cluster.wait(30.1)
    assert cluster.two.free == "ab"


def test_a_cooldown_of_the_whole_key_covers_all_models(cluster: Cluster) -> None:
    cluster.one.pool.cool("b", None, None, 401)
    cluster.exchange()
    assert cluster.two.free == "a"
    assert cluster.two.pool.choose("any", b"", {"a"}) is None
    assert cluster.two.pool.health()[1].health is Health.FAILED


def test_the_rest_of_a_cooldown_is_shared_not_its_whole(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", MODEL, 30.0, 429)
    cluster.wait(20.0)
    cluster.one.board.exchange()
    cluster.wait(5.0)
    cluster.two.board.exchange()
    health = cluster.two.pool.health()[0]
    assert health.cooling_for == pytest.approx(5.0, abs=0.001)


def test_what_is_over_is_not_reported(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", MODEL, 1.0, 429)
    cluster.wait(2.0)
    cluster.exchange()
    assert cluster.table.written == []


def test_what_is_over_is_not_applied(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", MODEL, 1.0, 429)
    cluster.one.board.exchange()
    cluster.wait(2.0)
    cluster.two.board.exchange()
    assert cluster.two.pool._keys["a"].state.scopes == {}


def test_what_was_heard_is_not_repeated(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", MODEL, 30.0, 429)
    cluster.exchange()
    cluster.exchange()
    assert len(cluster.table.written) == 1
    assert (cluster.one.announced, cluster.two.announced) == (1, 0)


def test_a_later_read_changes_nothing(cluster: Cluster) -> None:
    """Rows within the overlap are read again and again."""
    cluster.one.pool.cool("a", MODEL, 30.0, 429)
    cluster.exchange()
    cluster.two.pool.reset("a")
    cluster.exchange()
    assert cluster.two.free == "ab"


def test_a_new_worker_learns_what_runs(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", None, None, 402)
    cluster.exchange()
    cluster.wait(3000.0)
    late = Worker(cluster.table, 1.0)
    late.board.exchange()
    assert late.free == "b"
    assert late.pool.health()[0].cooling_for == pytest.approx(600.0, abs=0.001)
    late.board.set_pools([])


def test_a_reset_ends_cooldowns_on_all_nodes(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", None, None, 401)
    cluster.one.pool.cool("a", MODEL, None, 429)
    cluster.exchange()
    cluster.two.pool.cool("a", "unreported", None, 403)
    cluster.wait(5.0)
    cluster.table.reset("a")
    cluster.exchange()
    assert (cluster.one.free, cluster.two.free) == ("ab", "ab")
    # What begins later holds, though the row still has the time of the reset.
    cluster.two.pool.cool("a", None, None, 401)
    cluster.exchange()
    cluster.exchange()
    assert (cluster.one.free, cluster.two.free) == ("b", "b")


def test_a_reset_ends_once_what_has_begun(cluster: Cluster) -> None:
    """Any later report brings the row with the reset again."""
    worker = cluster.one
    cluster.exchange()
    cluster.table.reset("a")
    worker.board.exchange()
    worker.pool.cool("a", MODEL, 3000.0, 429)
    worker.board.exchange()
    worker.pool.cool("a", None, None, 401)
    for _ in range(2):
        worker.board.exchange()
    assert worker.pool.health()[0].cooling_for == pytest.approx(3000.0, abs=0.001)


def test_a_reset_from_before_the_start_ends_nothing(cluster: Cluster) -> None:
    late = Worker(cluster.table, 1.0)
    late.board.exchange()
    late.board.set_pools([])
    cluster.wait(60.0)
    cluster.table.reset("a")
    cluster.wait(7200.0)
    late.board.set_pools([late.pool])
    late.board.exchange()
    late.pool.cool("a", MODEL, 3000.0, 429)
    late.board.exchange()
    late.pool.cool("a", None, None, 401)
    for _ in range(2):
        late.board.exchange()
    assert late.pool.health()[0].cooling_for == pytest.approx(3000.0, abs=0.001)
    late.board.set_pools([])


def test_what_is_known_of_new_keys_is_read(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", None, 600.0, 401)
    cluster.exchange()
    worker = cluster.two
    # The key is taken away for a moment, or all are.
    for without in ([worker.made(key("b"))], []):
        for seconds in (1.0, 60.0):
            worker.board.set_pools(without)
            cluster.wait(seconds)
            worker.pool = worker.made()
            worker.board.set_pools([worker.pool])
            assert worker.free == "ab"
            worker.board.exchange()
            assert worker.free == "b"


def test_pools_that_change_while_the_database_responds(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", None, 600.0, 401)
    cluster.one.board.exchange()
    cluster.wait(60.0)
    worker = cluster.two
    worker.board.set_pools([worker.made(key("b"))])
    worker.board.exchange()
    read = cluster.table.read

    def slow(since: int = 0) -> HealthChanges:
        found = read(since)
        worker.board.set_pools([worker.pool])
        cluster.table.read = read  # type: ignore[method-assign]
        return found

    cluster.table.read = slow  # type: ignore[method-assign]
    worker.board.exchange()
    worker.board.exchange()
    assert worker.free == "b"


def test_an_open_breaker_is_a_hint(cluster: Cluster) -> None:
    for _ in range(5):
        cluster.one.send(Verdict.FAILURE)
    cluster.exchange()
    other = cluster.two.breakers["p", MODEL]
    assert other.state is State.CLOSED
    for _ in range(3):
        cluster.two.send(Verdict.FAILURE)
    assert other.state is State.OPEN
    assert cluster.two.free == "ab"


def test_a_hint_about_an_unknown_target_is_ignored(cluster: Cluster) -> None:
    cluster.one.board.opened("elsewhere", MODEL, 10.0)
    cluster.exchange()
    assert cluster.two.breakers["p", MODEL].state is State.CLOSED


def test_counts_are_reported_every_ten_seconds(cluster: Cluster) -> None:
    for status in (200, 200, 500):
        cluster.one.pool.record("a", status, MODEL)
    cluster.two.pool.record("a", 200, MODEL)
    cluster.exchange()
    assert cluster.table.rows == {}
    cluster.wait(10.0)
    cluster.exchange()
    row = cluster.table.rows["a", ""]
    assert (row.success_count, row.failure_count, row.cooling_until) == (3, 1, None)
    cluster.wait(10.0)
    cluster.exchange()
    assert len(cluster.table.written) == 2
    assert cluster.one.announced == 0  # there is no hurry
    cluster.one.pool.record("a", 200, MODEL)
    cluster.wait(10.0)
    cluster.exchange()
    assert cluster.table.rows["a", ""].success_count == 4


def test_counts_go_with_a_cooldown(cluster: Cluster) -> None:
    cluster.one.pool.record("a", 401, MODEL)
    cluster.one.pool.cool("a", None, None, 401)
    cluster.one.board.exchange()
    [[report]] = cluster.table.written
    assert report == KeyReport("a", "", pytest.approx(300.0), 401, 0, 1)


def test_counts_of_a_key_that_comes_back_begin_anew(cluster: Cluster) -> None:
    worker = cluster.one
    for _ in range(5):
        worker.pool.record("a", 200, MODEL)
    cluster.wait(10.0)
    worker.board.exchange()
    worker.board.set_pools([worker.made(key("b"))])
    cluster.wait(10.0)
    worker.board.exchange()
    worker.pool = worker.made()
    worker.board.set_pools([worker.pool])
    worker.pool.record("a", 200, MODEL)
    cluster.wait(10.0)
    worker.board.exchange()
    assert cluster.table.rows["a", ""].success_count == 6


def test_counts_that_fall_are_not_subtracted(cluster: Cluster) -> None:
    worker = cluster.one
    for _ in range(5):
        worker.pool.record("a", 200, MODEL)
    cluster.wait(10.0)
    worker.board.exchange()
    worker.pool = worker.made()
    worker.board.set_pools([worker.pool])
    worker.pool.record("a", 500, MODEL)
    cluster.wait(10.0)
    worker.board.exchange()
    row = cluster.table.rows["a", ""]
    assert (row.success_count, row.failure_count) == (5, 1)


def test_nothing_is_lost_while_the_database_is_away(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.one.board.exchange()
    cluster.one.pool.cool("a", MODEL, 60.0, 429)
    cluster.one.pool.record("b", 200, MODEL)
    cluster.table.failing = True
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            cluster.one.board._run()
        # The write fails after a read that worked.
        cluster.table.failing = False
        read = cluster.table.read

        def last_read(since: int = 0) -> HealthChanges:
            found = read(since)
            cluster.table.failing = True
            return found

        cluster.table.read = last_read  # type: ignore[method-assign]
        cluster.one.board._run()
        cluster.table.read, cluster.table.failing = read, False  # type: ignore[method-assign]
        cluster.one.board._run()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    cluster.exchange()
    assert cluster.two.free == "b"
    assert cluster.table.rows["b", ""].success_count == 1


def test_names_without_room_and_too_many_reports_stay_here(cluster: Cluster) -> None:
    cluster.one.pool.cool("a", "m" * 257, None, 403)
    for number in range(1500):
        cluster.one.board.cooled(f"a{number % 10}", f"m{number}", 60.0, 403)
    for seconds in (90.0, 30.0):
        cluster.one.board.cooled("a7", "m7", seconds, 403)
    cluster.one.board.exchange()
    [reports] = cluster.table.written
    assert len(reports) == 1000
    assert max(report.cooling or 0.0 for report in reports) == pytest.approx(90.0)
    assert all(len(report.model) <= 256 for report in reports)


@pytest.mark.parametrize("what", ["cooled", "opened"])
def test_models_of_the_clients_own_choice_fill_no_table(cluster: Cluster, what: str) -> None:
    board = cluster.one.board

    def report(model: str) -> None:
        if what == "cooled":
            board.cooled("a", model, 60.0, 403)
        else:
            board.opened("p", model, 60.0)

    for number in range(2000):
        report(f"m{number}")
        if not number % 100:
            board.exchange()
    report("m7")
    if what == "cooled":
        board.cooled("a", None, 60.0, 401)
    board.exchange()
    models = {model for _, model in cluster.table.rows}
    assert models - {""} == {f"m{number}" for number in range(256)}
    assert ("" in models) == (what == "cooled")
    cluster.wait(3600.0)
    report("another")
    board.exchange()
    assert "another" in {model for _, model in cluster.table.rows}


def test_nothing_runs_without_pools() -> None:
    table = Table()
    worker = Worker(table, 1.0)
    worker.board.set_pools([])
    assert not worker.board._task.started
    worker.pool.cool("a", None, None, 401)
    worker.board.on_message(WAKE_UP)
    gevent.sleep(0.01)
    worker.board.close()
    assert (table.reads, table.written, worker.board._pending) == ([], [], {})


def test_it_runs_by_itself_and_reports_the_rest_at_the_end() -> None:
    table = Table()
    worker = Worker(table, 1.0, interval=0.001)
    worker.board.set_pools([worker.pool])
    with gevent.Timeout(10):
        while len(table.reads) < 4:
            gevent.sleep(0.001)
        worker.pool.cool("a", None, None, 401)
        while not table.written:
            gevent.sleep(0.001)
    worker.pool.record("b", 200, MODEL)
    worker.board.close()
    worker.board.close()
    assert table.rows["b", ""].success_count == 1
    # All but the first reads reach back by the overlap of 15 seconds.
    assert table.reads[0] == 1 << 62
    reach = {round((START * 1e6 - since) / 1e6) for since in table.reads[2:]}
    assert reach == {15}


def test_a_wake_up_ends_the_pause() -> None:
    table = Table()
    worker = Worker(table, 1.0, interval=3600.0)
    with gevent.Timeout(10):
        while not table.reads:
            gevent.sleep(0.001)
        before = len(table.reads)
        worker.board.on_message(WAKE_UP)
        while len(table.reads) == before:
            gevent.sleep(0.001)
    worker.board.set_pools([])


def test_a_failing_end_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    worker = Worker(table, 1.0)
    worker.pool.record("a", 200, MODEL)
    table.failing = True
    worker.board.close()
    assert "are lost" in caplog.text
