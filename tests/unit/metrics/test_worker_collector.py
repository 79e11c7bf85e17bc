"""The samples of a worker's parts at a snapshot."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.metrics import worker_collector as vitals_module
from proxy.metrics.cache_counts import CacheCounts
from proxy.metrics.samples import Samples, merge
from proxy.metrics.target_labels import TargetLabels
from proxy.metrics.worker_collector import WorkerCollector, WorkerParts


class Counted(SimpleNamespace):
    """A part with a length."""

    def __len__(self) -> int:
        return int(self.length)


def sink_worker(name: str = "JsonLinesSink", pending: int = 0) -> Any:
    return SimpleNamespace(name=name, pending=pending, dropped=2, errors=1)


def pump(*sink_workers: Any) -> Any:
    spool_writer = SimpleNamespace(
        bytes=100, max_bytes=1000, dropped=3, unspooled=4, inflight_table=SimpleNamespace(missed=5)
    )
    recovery = SimpleNamespace(recovered=8, damaged=9)
    return SimpleNamespace(
        sink_workers=sink_workers, spool_writer=spool_writer, recovery=recovery, kept=12
    )


def parts(**changes: Any) -> WorkerParts:
    made: dict[str, Any] = {
        "in_flight": [1, 2, 3],
        "in_flight_limit": 3000,
        "token_cache": Counted(length=4, hits=10, refreshes=1, refusals=2, misses=3),
        "pools": lambda: [
            SimpleNamespace(made=1, reused=2, idle_count=3),
            SimpleNamespace(made=10, reused=20, idle_count=30),
        ],
        "queue": Counted(length=5, dropped=6, unwritable=7, gate=Counted(waited=8, refused=9)),
        "queue_limit": 10_000,
        "pump": lambda: pump(sink_worker()),
        "change_poller": SimpleNamespace(lag=None, polled_at=None, listening=None),
        "database_up": lambda: True,
        "permits": lambda: 9,
        "audit_dropped": lambda: 11,
        "tasks": {"tokens": 10, "usage": 0},
        "limits": SimpleNamespace(is_up=True, throttle=SimpleNamespace(refused={"token": 10})),
        "routing": None,
        "response_cache": lambda: None,
        "targets": TargetLabels(lambda: {"first": {"model-1"}}),
        "data_dir": Path("/"),
        "workers_expected": 2,
        "server_started": 1e9,
    }
    return WorkerParts(**made | changes)


def measured(source: WorkerCollector) -> dict[str, Any]:
    """``name{label}`` → value."""
    samples = Samples()
    source.measure(samples)
    return {
        name.removeprefix("proxy_") + (f"{{{','.join(labels)}}}" if labels else ""): value
        for name, series in samples.values.items()
        for labels, value in series.items()
    }


def test_all_parts_are_measured() -> None:
    values = measured(WorkerCollector(parts()))
    assert {k: v for k, v in values.items() if not k.startswith(("process", "revocation"))} == {
        "workers": 1,
        "workers_expected": 2,
        "start_time_seconds": 1e9,
        "requests_in_flight": 3,
        "requests_in_flight_limit": 3000,
        "database_up": 1.0,
        "permits_leased": 9,
        "audit_entries_dropped_total": 11,
        "housekeeping_rows_total{tokens}": 10,
        "housekeeping_rows_total{usage}": 0,
        "limiter_up": 1.0,
        "limit_refusals_total{token}": 10,
        "token_cache_entries": 4,
        "token_cache_lookups_total{hit}": 10,
        "token_cache_lookups_total{refresh}": 1,
        "token_cache_lookups_total{unknown}": 2,
        "token_cache_lookups_total{miss}": 3,
        "upstream_idle_connections": 33,
        "upstream_connections_total{made}": 11,
        "upstream_connections_total{reused}": 22,
        "event_queue_depth": 5,
        "event_queue_limit": 10_000,
        "event_gate_total{waited}": 8,
        "event_gate_total{refused}": 9,
        "events_dropped_total{queue}": 6,
        "events_dropped_total{unwritable}": 7,
        "events_dropped_total{jsonlines}": 2,
        "events_dropped_total{spool_full}": 3,
        "events_dropped_total{not_spooled}": 4,
        "inflight_table_full_total": 5,
        "events_recovered_total": 8,
        "events_damaged_total": 9,
        "spool_bytes": 100,
        "spool_kept_events": 12,
        "spool_limit_bytes": 1000,
        "sink_pending_events{jsonlines}": 0,
        "sink_errors_total{jsonlines}": 1,
        "sink_lag_seconds{jsonlines}": 0,
    }


def test_the_response_cache_of_several_workers() -> None:
    """What the node stores is not added up; what each worker has counted is."""
    samples = []
    for misses in (4, 5):
        counts = CacheCounts(
            entries=7,
            bytes=700,
            limit_bytes=1000,
            results={"miss": misses, "bypass": 1},
            evictions={"expired": 2},
            errors={"shared_full": 3},
            rejected={"incomplete": 3},
            flights=1,
            readers=2,
            idempotent={"replayed": 1},
        )
        worker = Samples()
        WorkerCollector(parts(response_cache=lambda counts=counts: counts)).measure(worker)
        worker.count("proxy_cache_requests_total", ("hit",), 10)
        WorkerCollector(parts(response_cache=lambda counts=counts: counts)).measure(worker)
        samples.append(worker)
    values = merge(samples).values
    for name, value in (("entries", 7), ("bytes", 700), ("limit_bytes", 1000)):
        assert values[f"proxy_cache_{name}"] == {(): value}
    assert values["proxy_cache_requests_total"] == {
        ("hit",): 20,
        ("stale",): 0,
        ("collapsed",): 0,
        ("replayed",): 0,
        ("miss",): 9,
        ("bypass",): 2,
    }
    assert values["proxy_saved_tokens_total"] == {("prompt",): 0, ("completion",): 0}
    assert values["proxy_cache_evictions_total"] == {("expired",): 4}
    assert values["proxy_cache_errors_total"] == {("shared_full",): 6}
    assert values["proxy_cache_rejected_total"] == {("incomplete",): 6}
    assert values["proxy_idempotent_total"] == {("replayed",): 2}
    assert (values["proxy_flights"], values["proxy_flight_readers"]) == ({(): 2}, {(): 4})


def test_before_the_start_and_without_a_database() -> None:
    values = measured(WorkerCollector(parts(pump=lambda: None, database_up=lambda: False)))
    assert values["database_up"] == 0.0
    assert not [name for name in values if name.startswith("sink")]


def test_without_a_database_its_metrics_are_absent() -> None:
    values = measured(WorkerCollector(parts(database_up=None, change_poller=None)))
    assert not [name for name in values if name.startswith(("database", "revocation"))]


def test_lag_is_the_time_since_a_sink_was_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(vitals_module.time, "monotonic", lambda: now)
    sink = sink_worker(pending=0)
    source = WorkerCollector(parts(pump=lambda: pump(sink)))
    lags = []
    for now, pending in ((100.0, 0), (110.0, 3), (115.0, 9), (116.0, 0), (117.0, 1)):  # noqa: B007
        sink.pending = pending
        lags.append(measured(source)["sink_lag_seconds{jsonlines}"])
    assert lags == [0, 10, 15, 0, 1]


def test_revocation(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(vitals_module.time, "monotonic", lambda: now)
    poller = SimpleNamespace(lag=None, polled_at=None, listening=None)
    source = WorkerCollector(parts(change_poller=poller))
    now = 103.0
    values = measured(source)
    # Never polled: the age counts from the start.
    assert values["revocation_poll_age_seconds"] == 3.0
    assert "revocation_lag_seconds" not in values
    poller.lag, poller.polled_at = 0.7, 102.5
    values = measured(source)
    assert (values["revocation_poll_age_seconds"], values["revocation_lag_seconds"]) == (0.5, 0.7)
    assert "revocation_listening" not in values
    for listening in (True, False):
        poller.listening = listening
        assert measured(source)["revocation_listening"] == float(listening)


def test_free_space(tmp_path: Path) -> None:
    space = WorkerCollector(parts(data_dir=tmp_path)).free_space()
    assert space is not None
    assert 0 <= space[0] <= space[1]
    assert WorkerCollector(parts(data_dir=tmp_path / "missing")).free_space() is None


def routing(
    *breakers: tuple[str, str, str], keys: dict[str, str] | None = None, **refused: int
) -> Any:
    return SimpleNamespace(
        refused_retries=refused,
        names=lambda: ["first"],
        breakers=lambda: [
            SimpleNamespace(provider=provider, model=model, state=state)
            for provider, model, state in breakers
        ],
        key_health=lambda: [
            ("first", SimpleNamespace(key_id=key, health=health))
            for key, health in (keys or {}).items()
        ],
    )


def of_routing(source: WorkerCollector, samples: Samples) -> dict[str, Any]:
    source.measure(samples)
    names = ("breaker_state", "key_healthy", "retry_budget_exhausted_total")
    return {name: samples.values.get(f"proxy_{name}") for name in names}


def test_providers() -> None:
    known = routing(
        ("first", "model-1", "half_open"),
        ("first", "invented-1", "open"),
        ("first", "invented-2", "closed"),
        keys={"k1": "healthy", "k2": "cooling", "k3": "failed"},
    )
    known.refused_retries["default"] = 2
    assert of_routing(WorkerCollector(parts(routing=known)), Samples()) == {
        # Models that clients chose share a label, with the worst state.
        "breaker_state": {("first", "model-1"): 1, ("first", "other"): 2},
        "key_healthy": {("first", "k1"): 1.0, ("first", "k2"): 0.0, ("first", "k3"): 0.0},
        # The counter begins at 0, so that the first one shows as a rise.
        "retry_budget_exhausted_total": {("first",): 0, ("default",): 2},
    }


def test_a_provider_that_is_gone_has_no_state() -> None:
    known = routing(("first", "model-1", "open"), keys={"k1": "failed"})
    source, samples = WorkerCollector(parts(routing=known)), Samples()
    of_routing(source, samples)
    known.breakers = known.key_health = list
    found = of_routing(source, samples)
    assert (found["breaker_state"], found["key_healthy"]) == ({}, {})


def test_one_worker_that_is_refused_is_enough() -> None:
    """A key rests in the node's page if it rests in any worker, and a breaker shows its worst."""
    pages = []
    for state, health in (("closed", "healthy"), ("open", "failed"), ("half_open", "healthy")):
        known = routing(("first", "model-1", state), keys={"k1": health})
        samples = Samples()
        WorkerCollector(parts(routing=known)).measure(samples)
        pages.append(samples)
    merged = merge(pages).values
    assert merged["proxy_breaker_state"] == {("first", "model-1"): 2}
    assert merged["proxy_key_healthy"] == {("first", "k1"): 0.0}
