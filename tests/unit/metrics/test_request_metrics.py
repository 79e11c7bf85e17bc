"""From usage events to samples."""

import logging
from typing import Any

import pytest

from proxy.core.usage_event import CacheFacts, RoutingFacts
from proxy.metrics.request_metrics import RequestMetrics
from proxy.metrics.samples import Samples
from proxy.metrics.target_labels import TargetLabels
from proxy.routing.retry import Failure
from tests.support.event_samples import event

USAGE = {"model": "gpt-4.1", "prompt_tokens": 9, "completion_tokens": 12, "cached_tokens": 3}
MODELS = {"first": {"model-1"}, "second": {"model-2"}}


def counted(*events: Any) -> dict[str, dict[tuple[str, ...], Any]]:
    samples = Samples()
    RequestMetrics(samples, TargetLabels(lambda: MODELS)).observe(events)
    return samples.values


def test_a_completed_request() -> None:
    values = counted(
        event(
            project_id="p1",
            duration_ms=150.0,
            queue_ms=20.0,
            upstream_ms=125.0,
            ttfb_ms=149.0,
            bytes_in=120,
            bytes_out=730,
            metadata=USAGE,
        )
    )
    assert values["proxy_requests_total"] == {("chat", "POST", "200", "completed"): 1}
    sums = {name: series[("chat",)][-1] for name, series in values.items() if "seconds" in name}
    assert sums == pytest.approx(
        {
            "proxy_request_duration_seconds": 0.15,
            "proxy_time_to_first_byte_seconds": 0.149,
            "proxy_upstream_duration_seconds": 0.125,
            # The upstream's time and the connect time are not the proxy's own.
            "proxy_overhead_seconds": 0.005,
        }
    )
    assert values["proxy_provider_requests_total"] == {("default", "", "success"): 1}
    assert values["proxy_tokens_total"] == {
        ("prompt", "p1", "gpt-4.1"): 9,
        ("completion", "p1", "gpt-4.1"): 12,
        ("cached", "p1", "gpt-4.1"): 3,
    }
    assert values["proxy_body_bytes_total"] == {("in",): 120, ("out",): 730}
    assert "proxy_errors_total" not in values


@pytest.mark.parametrize("how", ["hit", "collapsed", "replayed", "stale"])
def test_a_cached_request_has_saved_tokens_and_asked_no_upstream(how: Any) -> None:
    facts = CacheFacts(how, 9, None)
    values = counted(
        event(
            outcome="cached",
            usage_source="cached",
            metadata=facts.metadata("gpt-4.1"),
            cache=facts,
        )
    )
    assert values["proxy_requests_total"] == {("chat", "POST", "200", "cached"): 1}
    assert values["proxy_cache_requests_total"] == {(how,): 1}
    assert values["proxy_saved_tokens_total"] == {("prompt",): 9}
    assert "proxy_provider_requests_total" not in values
    assert "proxy_tokens_total" not in values


def test_a_stale_response_covers_an_attempt_that_failed() -> None:
    facts = CacheFacts("stale", 9, 12)
    own_key = event(outcome="cached", upstream_ms=5.0, cache=facts)
    attempts = ({"provider": "first", "model": "model-1", "reason": None},)
    routing = RoutingFacts(None, None, "alias", attempts)
    routed = event(outcome="cached", upstream_ms=5.0, cache=facts, routing=routing)
    assert counted(own_key, routed)["proxy_provider_requests_total"] == {
        ("default", "", "error"): 1,
        ("first", "model-1", "error"): 1,
    }


def test_a_refusal_counts_no_upstream_request() -> None:
    refused = event(status_code=429, outcome="rejected", error_code="quota_exceeded")
    values = counted(refused)
    assert values["proxy_errors_total"] == {("quota_exceeded",): 1}
    assert values["proxy_rate_limited_total"] == {
        ("overloaded",): 0,
        ("quota_exceeded",): 1,
        ("rate_limit_exceeded",): 0,
    }
    for name in ("provider_requests_total", "upstream_duration_seconds", "overhead_seconds"):
        assert f"proxy_{name}" not in values


def test_cut_requests_are_distinguished_from_refused_ones() -> None:
    values = counted(
        event(status_code=401, outcome="rejected", error_code="token_inactive"),
        event(outcome="aborted", error_code="token_inactive"),
        event(outcome="aborted", error_code="upstream_timeout"),
    )
    cut = values["proxy_requests_cut_total"]
    assert {reason: count for (reason,), count in cut.items() if count} == {"token_inactive": 1}
    assert ("project_inactive",) in cut


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status_code": 200}, "success"),
        ({"status_code": 304}, "success"),
        ({"status_code": 101}, "success"),
        ({"status_code": 429}, "rate_limited"),
        ({"status_code": 404}, "refused"),
        ({"status_code": 401}, "refused"),
        ({"status_code": 503}, "error"),
        ({"outcome": "client_gone"}, "success"),
        ({"outcome": "client_gone", "status_code": 499}, None),
        ({"outcome": "aborted", "error_code": "upstream_timeout"}, "error"),
        ({"outcome": "aborted", "error_code": "upstream_timeout", "status_code": 504}, "error"),
        # Cut by a revocation: the upstream had responded, or it had not.
        ({"outcome": "aborted", "error_code": "token_inactive"}, "success"),
        ({"outcome": "aborted", "error_code": "token_inactive", "status_code": 401}, None),
    ],
)
def test_status_of_an_attempt_with_the_own_key(changes: dict[str, Any], status: str | None) -> None:
    values = counted(event(upstream_ms=1.0, **changes))
    wanted = {} if status is None else {("default", "", status): 1}
    assert values.get("proxy_provider_requests_total", {}) == wanted
    # Cut requests have no overhead: their time says nothing about the proxy.
    cut = changes.get("outcome", "completed") != "completed"
    assert ("proxy_overhead_seconds" in values) != cut
    assert "proxy_fallbacks_total" not in values


def attempt(provider: str, model: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"provider": provider, "model": model, "key_id": "k", "status": None, "reason": reason}


def routed(*attempts: dict[str, Any], moves: tuple[str, ...] = (), **changes: Any) -> Any:
    facts = RoutingFacts("second", "model-2", "smart", attempts, moves)
    return event(**{"upstream_ms": 1.0, "routing": facts, **changes})


def test_each_attempt_is_counted_once() -> None:
    values = counted(
        routed(
            attempt("first", "model-1", "auth"),
            attempt("first", "model-1", "rate"),
            attempt("first", "model-1", "server"),
            attempt("second", "model-2"),
            moves=("server",),
        )
    )
    assert values["proxy_provider_requests_total"] == {
        ("first", "model-1", "refused"): 1,
        ("first", "model-1", "rate_limited"): 1,
        ("first", "model-1", "error"): 1,
        ("second", "model-2", "success"): 1,
    }
    assert values["proxy_fallbacks_total"] == {("smart", "server"): 1}
    assert values["proxy_requests_total"] == {("chat", "POST", "200", "completed"): 1}


@pytest.mark.parametrize("reason", list(Failure))
def test_each_reason_has_a_status(reason: str) -> None:
    values = counted(routed(attempt("first", "model-1", reason), status_code=502))
    found = [status for _, _, status in values.get("proxy_provider_requests_total", {})]
    rate = {"rate", "stream_rate"}
    refused = {"client", "content", "context", "model_not_found"} | {
        f"{prefix}{kind}" for prefix in ("", "stream_") for kind in ("auth", "forbidden", "payment")
    }
    if reason == "abandoned":
        assert not found
    else:
        status = "rate_limited" if reason in rate else "refused" if reason in refused else "error"
        assert found == [status]


def test_a_response_that_broke_off_was_no_success() -> None:
    broken = routed(attempt("second", "model-2"), outcome="aborted", error_code="upstream_broken")
    values = counted(broken)
    assert values["proxy_provider_requests_total"] == {("second", "model-2", "error"): 1}


def test_models_that_clients_choose_are_other() -> None:
    values = counted(
        *[routed(attempt("first", f"invented-{number}")) for number in range(50)],
        routed(attempt("first", "model-2")),  # of another provider
        routed(attempt("first", None)),
        routed(attempt("default", None)),
    )
    assert values["proxy_provider_requests_total"] == {
        ("first", "other", "success"): 51,
        ("first", "", "success"): 1,
        ("default", "", "success"): 1,
    }


def test_the_series_of_targets_are_bounded() -> None:
    models = {"first": {f"m{number}" for number in range(3000)}}
    samples = Samples()
    RequestMetrics(samples, TargetLabels(lambda: models)).observe(
        event(
            routing=RoutingFacts(
                "first", name, f"alias of {name}", (attempt("first", name),), ("rate",)
            )
        )
        for name in models["first"]
    )
    for name in ("proxy_provider_requests_total", "proxy_fallbacks_total"):
        assert len(samples.values[name]) == 501
        assert sum(samples.values[name].values()) == 3000


def test_a_superseded_attempt_adds_its_tokens_and_nothing_else() -> None:
    lost = routed(attempt("first", "model-1", "stream_cut"), outcome="superseded")
    lost.project_id, lost.metadata = "p1", USAGE
    values = counted(lost)
    assert {name for name, series in values.items() if any(map(any_count, series.values()))} == {
        "proxy_tokens_total"
    }
    assert values["proxy_tokens_total"][("prompt", "p1", "gpt-4.1")] == 9


def any_count(value: Any) -> bool:
    return bool(sum(value) if isinstance(value, list) else value)


def test_no_duration_is_negative() -> None:
    values = counted(event(duration_ms=1.0, upstream_ms=1.5, queue_ms=0.1))
    assert values["proxy_overhead_seconds"][("chat",)][-1] == 0.0


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": f"/v1/{'x' * 900}"},
        {"endpoint": '/v1/a"} 1\nevil{b="'},
        {"method": "EVIL\n"},
        {"error_code": "evil"},
        {"metadata": {**USAGE, "model": 'evil"\n'}},
        {"metadata": {**USAGE, "model": "evil " * 10}},
    ],
)
def test_invented_values_are_other(changes: dict[str, Any]) -> None:
    values = counted(event(project_id="p", upstream_ms=1.0, **changes))
    found = {label for series in values.values() for labels in series for label in labels}
    assert "other" in found
    assert not [label for label in found if "evil" in label.lower() or "x" * 10 in label]


def test_a_thousand_models_make_fewer_series() -> None:
    made = [
        event(project_id="p", metadata={**USAGE, "model": f"model-{number}"})
        for number in range(1000)
    ]
    tokens = counted(*made)["proxy_tokens_total"]
    assert len(tokens) <= 3 * 101
    assert sum(tokens.values()) == 1000 * (9 + 12 + 3)


def test_the_series_of_many_projects_and_models_are_bounded() -> None:
    made = [
        event(project_id=f"p{project}", metadata={**USAGE, "model": f"model-{model}"})
        for project in range(60)
        for model in range(20)
    ]
    values = counted(*made)
    assert 3 * 200 <= len(values["proxy_tokens_total"]) <= 3 * 201
    assert sum(len(series) for series in values.values()) < 700
    assert sum(values["proxy_tokens_total"].values()) == len(made) * (9 + 12 + 3)


@pytest.mark.parametrize("metadata", [{}, {"model": "asked-for-but-not-counted"}])
def test_a_model_without_counts_makes_no_series(metadata: dict[str, object]) -> None:
    assert "proxy_tokens_total" not in counted(event(metadata=metadata))


def test_an_event_that_cannot_be_counted_affects_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = event(duration_ms="long")
    values = counted(bad, event(), bad, event())
    assert values["proxy_request_duration_seconds"][("chat",)][-1] > 0
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("status", "outcome"), [(204, "completed"), (401, "rejected"), (503, "aborted")]
)
def test_responses_of_the_proxy_itself_are_counted(status: int, outcome: str) -> None:
    samples = Samples()
    RequestMetrics(samples, TargetLabels(dict)).count_response("management", "PURGE", status)
    key = ("management", "other", str(status), outcome)
    assert samples.values["proxy_requests_total"] == {key: 1}
