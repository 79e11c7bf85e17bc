"""The attempt loop: every row of the table, its bounds, and what the client gets in the end."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import gevent
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.errors import ClientError, ConnectFailed, ProxyError, UpstreamError
from proxy.providers.base import (
    HeaderList,
    PreparedCall,
    ResponseTransform,
    Target,
    Translation,
)
from proxy.providers.openai import OpenAIProvider
from proxy.providers.transforms import WholeBody, transformed
from proxy.routing.access import RoutingAccess
from proxy.routing.attempt_loop import MAX_SENT, RoutingOptions
from proxy.routing.circuit_breaker import State
from proxy.routing.held_response import MAX_ERROR_SECONDS
from tests.support.attempts import (
    DONE,
    OUTPUT,
    START,
    ScriptedResponse,
    World,
    body_of,
    error_event,
    failing,
    ok,
    refused,
    reset,
    silence,
    stream,
    too_slow,
)
from tests.support.routing_records import catalog, key, mapping, provider


def world(*, options: RoutingOptions | None = None, **config: Any) -> World:
    """Two targets: `a` with the keys 1 and 2, then `b` with the key 1."""
    made = World(
        catalog(
            provider("a", key_strategy="priority", **config),
            provider("b", key_strategy="priority", **config),
            key("a", "1"),
            key("a", "2"),
            key("b", "1"),
            mapping("m", "a/ma"),
            mapping("m", "b/mb", 1),
        ),
        options=options or RoutingOptions(),
    )
    made.script.clear()
    return made


def only(**config: Any) -> World:
    """One target with one key."""
    return World(
        catalog(provider("a", **config), key("a", "1"), mapping("m", "a/ma")),
    )


#: What the first target answers, where its attempts go, and where the request ends.
ROWS: list[tuple[str, Any, list[str]]] = [
    ("connect", refused, ["a/1", "a/1", "b/1"]),
    ("401", lambda: failing(401), ["a/1", "a/2", "b/1"]),
    ("403", lambda: failing(403), ["a/1", "a/2", "b/1"]),
    ("402", lambda: failing(402), ["a/1", "a/2", "b/1"]),
    ("429 of quota", lambda: failing(429, code="insufficient_quota"), ["a/1", "a/2", "b/1"]),
    ("429", lambda: failing(429), ["a/1", "a/2", "b/1"]),
    (
        "429, short wait",
        lambda: failing(429, retry_after="1"),
        ["a/1", "a/2", "a/1", "a/2", "b/1"],
    ),
    ("429, long wait", lambda: failing(429, retry_after="30"), ["a/1", "a/2", "b/1"]),
    ("500", lambda: failing(500), ["a/1", "a/1", "b/1"]),
    ("503", lambda: failing(503), ["a/1", "a/1", "b/1"]),
    ("503, long wait", lambda: failing(503, retry_after="30"), ["a/1", "b/1"]),
    ("529", lambda: failing(529), ["a/1", "a/1", "b/1"]),
    ("404 of a model", lambda: failing(404, code="model_not_found"), ["a/1", "b/1"]),
    ("error event", lambda: stream(START, error_event(code="x")), ["a/1", "a/1", "b/1"]),
    ("rate event", lambda: stream(error_event(code="rate_limit_exceeded")), ["a/1", "a/2", "b/1"]),
]


@pytest.mark.parametrize(("row", "outcome", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_another_key_the_same_target_or_the_next(
    row: str, outcome: Callable[[], Any], expected: list[str]
) -> None:
    made = world()
    made.script["a"] = [outcome]
    routed = made.run(streams="event" in row)
    assert made.sent == expected
    assert routed.target.provider == "b"
    assert body_of(routed.response) == b'{"ok":true}'
    assert len(made.last.attempts) == len(expected)
    assert made.reasons()[-1] is None
    rejected = [each for each in made.responses if each.status != 200 or each.headers[0][1] != "x"]
    assert all(each.closed for each in rejected[:-1])


#: What is the client's to see: no second attempt unless the mapping asks for it, by this cause.
OPTIONAL: list[tuple[str, Any, str]] = [
    ("reset", reset, "reset"),
    ("silence", silence, "timeout"),
    ("504", lambda: failing(504), "timeout"),
    ("too slow", too_slow, "timeout"),
    ("context", lambda: failing(400, code="context_length_exceeded"), "context"),
    ("content", lambda: failing(400, code="content_filter"), "content"),
]


@pytest.mark.parametrize(("row", "outcome", "cause"), OPTIONAL, ids=[row[0] for row in OPTIONAL])
def test_what_is_tried_elsewhere_only_when_asked(
    row: str, outcome: Callable[[], Any], cause: str
) -> None:
    made = world()
    made.script["a"] = [outcome]
    with contextlib.suppress(UpstreamError):
        made.run()
    assert made.sent == ["a/1"]
    asked = world(options=RoutingOptions(fallback_on=frozenset({cause})))
    asked.script["a"] = [outcome]
    assert asked.run().target.provider == "b"
    assert asked.sent == ["a/1", "b/1"]


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
def test_the_clients_own_faults_pass_at_once_and_count_against_nobody(status: int) -> None:
    made = world()
    made.script["a"] = [lambda: failing(status)]
    for _ in range(30):
        routed = made.run()
        assert routed.response.status == status
        assert "x-should-retry" not in dict(routed.response.headers)
    assert set(made.sent) == {"a/1"}
    assert {each.state for each in made.states.breakers()} == {State.CLOSED}


#: A model that is missing is always looked for elsewhere.
NAMED = [row for row in ROWS if row[0] != "404 of a model"]


@pytest.mark.parametrize(("row", "outcome"), [row[:2] for row in NAMED], ids=[r[0] for r in NAMED])
def test_a_cause_that_is_not_named_ends_the_chain(row: str, outcome: Callable[[], Any]) -> None:
    made = world(options=RoutingOptions(fallback_on=frozenset()))
    made.script["a"] = [outcome]
    with contextlib.suppress(ProxyError):
        made.run(streams="event" in row)
    assert "b/1" not in made.sent


def test_each_attempt_is_prepared_from_the_original() -> None:
    made = world()
    made.script["a"] = [lambda: failing(500)]
    original = made.call()
    route = made.router.route(made.access, "m", has_own_key=False)
    made.run_route(route, original)
    assert [dict(each.headers)["Host"] for each in made.requests] == [
        "a.example",
        "a.example",
        "b.example",
    ]
    assert all(len(each.headers) == 2 for each in made.requests)


def test_all_keys_are_tried_whatever_the_retries() -> None:
    made = World(
        catalog(
            provider("a", key_strategy="priority", max_retries=0),
            *[key("a", str(number)) for number in range(1, 13)],
            mapping("m", "a/ma"),
        )
    )
    for number, status in enumerate((401, 402, 403), 1):
        made.script[f"a/{number}"] = [lambda status=status: failing(status)]
    assert made.run().response.status == 200
    assert made.sent == ["a/1", "a/2", "a/3", "a/4"]


def test_ten_keys_at_most() -> None:
    made = World(
        catalog(
            provider("a", key_strategy="priority"),
            *[key("a", str(number)) for number in range(1, 15)],
            mapping("m", "a/ma"),
        )
    )
    made.script["a"] = [lambda: failing(401)]
    with pytest.raises(ProxyError) as caught:
        made.run()
    assert caught.value.code == "upstream_auth_failed"
    assert len(made.sent) == 10


# What the client gets when nothing has served it.


def test_all_keys_refused_is_a_502_and_not_the_clients_fault() -> None:
    made = world()
    made.script["a"] = made.script["b"] = [lambda: failing(401)]
    with pytest.raises(ProxyError) as caught:
        made.run()
    assert (caught.value.code, caught.value.status) == ("upstream_auth_failed", 502)
    # While they rest, nothing is sent.
    sent = len(made.sent)
    with pytest.raises(ProxyError) as caught:
        made.run()
    assert caught.value.code == "upstream_auth_failed"
    assert len(made.sent) == sent


def test_the_first_failure_that_is_the_clients_to_see_passes_byte_for_byte() -> None:
    made = world(max_retries=0)
    made.script["a"] = [lambda: failing(503)]
    made.script["b"] = [lambda: failing(500)]
    routed = made.run()
    assert routed.response.status == 503
    assert b"status 503" in body_of(routed.response)
    assert dict(routed.response.headers)["x-should-retry"] == "false"


def test_a_429_names_the_shortest_wait() -> None:
    made = World(
        catalog(
            provider("a", key_strategy="priority"),
            key("a", "1"),
            key("a", "2"),
            mapping("m", "a/ma"),
        )
    )
    made.script["a/1"] = [lambda: failing(429, retry_after="50")]
    made.script["a/2"] = [lambda: failing(429, retry_after="20")]
    routed = made.run()
    assert routed.response.status == 429
    headers = dict(routed.response.headers)
    assert headers["Retry-After"] == "20"
    assert "x-should-retry" not in headers
    with pytest.raises(ProxyError) as caught:
        made.run()
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.retry_after == 20
    assert made.sent == ["a/1", "a/2"]


def test_a_wait_that_the_upstream_names_is_not_forbidden() -> None:
    made = world(max_retries=0)
    made.script["b"] = [lambda: failing(500)]
    for wait, forbidden in (("30", False), ("90", True)):
        made.script["a"] = [lambda wait=wait: failing(503, retry_after=wait)]
        headers = dict(made.run().response.headers)
        assert headers["retry-after"] == wait
        assert ("x-should-retry" in headers) is forbidden


def test_a_provider_without_an_active_key_says_so() -> None:
    made = World(catalog(provider("a"), mapping("m", "a/ma")))
    with pytest.raises(ProxyError) as caught:
        made.run()
    assert caught.value.code == "upstream_auth_failed"
    assert "no active key" in str(caught.value)
    assert made.sent == []


def test_a_type_that_is_stored_and_not_served_gives_way_to_the_next_target() -> None:
    records = (
        provider("a", "unheard-of"),
        provider("b"),
        key("a", "1"),
        key("b", "1"),
        mapping("m", "a/ma"),
    )
    made = World(catalog(*records, mapping("m", "b/mb", 1)))
    assert made.run().response.status == 200
    assert made.sent == ["b/1"]
    made = World(catalog(*records))
    with pytest.raises(ClientError) as caught:
        made.run()
    assert caught.value.code == "endpoint_not_supported"
    assert "`unheard-of`" in str(caught.value)


def test_each_attempt_knows_the_place_of_its_target() -> None:
    made = world(max_retries=1)
    made.script["a"] = [lambda: failing(500)]
    made.run()
    assert [attempt.target for attempt in made.last.attempts] == [0, 0, 1]
    assert "target" not in made.last.attempts[0].as_json()
    for _ in range(5):
        made.run()
    # The first target's breaker is open now, so nothing was sent there.
    assert [attempt.target for attempt in made.last.attempts] == [1]
    made.run_own()
    assert [attempt.as_json()["provider"] for attempt in made.last.attempts] == ["default"]


def test_connection_failures_raise_the_first_one() -> None:
    made = world(max_retries=0)
    made.script["a"] = made.script["b"] = [refused]
    with pytest.raises(ProxyError) as caught:
        made.run()
    assert caught.value.code == "upstream_unreachable"
    assert ("x-should-retry", "false") in caught.value.headers


def test_all_breakers_open_is_a_503_with_a_wait() -> None:
    made = world(max_retries=0)
    made.script["a"] = made.script["b"] = [lambda: failing(500)]
    for _ in range(5):
        made.run()
    sent = len(made.sent)
    assert {each.state for each in made.states.breakers()} == {State.OPEN}
    # The one that opens next is probed, and while that runs the other one; then all are refused.
    refusals: list[ProxyError] = []
    depth: list[None] = []

    def probe() -> ScriptedResponse:
        depth.append(None)
        if len(depth) < 2:
            made.run()
        else:
            with pytest.raises(ProxyError) as caught:
                made.run()
            refusals.append(caught.value)
        return failing(500)

    made.script["a"] = made.script["b"] = [probe]
    made.run()
    assert refusals
    assert {each.code for each in refusals} == {"upstream_unavailable"}
    assert all(each.retry_after and each.retry_after >= 1 for each in refusals)
    assert sent < len(made.sent) <= sent + 2


def test_a_lone_target_is_never_cut_off_whole() -> None:
    made = only(max_retries=0)
    made.script["a"] = [lambda: failing(500)]
    for _ in range(5):
        made.run()
    refused_with: list[str] = []
    for _ in range(100):
        try:
            made.run()
        except ProxyError as error:
            refused_with.append(error.code)
    assert set(refused_with) == {"upstream_unavailable"}
    assert 80 <= len(refused_with) <= 95


def test_a_breaker_comes_back_by_itself() -> None:
    made = only(max_retries=0)
    made.script["a"] = [lambda: failing(500)]
    for _ in range(5):
        made.run()
    made.script["a"] = [ok]
    made.now += 15
    for _ in range(3):
        assert made.run().response.status == 200
    assert made.states.breakers()[0].state is State.CLOSED


# Bounds.


def test_max_attempts_counts_retries_and_fallbacks() -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    made = World(
        catalog(
            *[provider(name) for name in names],
            *[key(name, "1") for name in names],
            *[mapping("m", f"{name}/m", index) for index, name in enumerate(names)],
        ),
        options=RoutingOptions(max_attempts=4),
    )
    for name in names:
        made.script[name] = [lambda: failing(500)]
    routed = made.run()
    assert made.sent == ["a/1", "a/1", "b/1", "b/1"]
    assert routed.response.status == 500


def test_no_attempt_begins_after_the_deadline() -> None:
    made = world(options=RoutingOptions(retry_deadline=30.0))
    made.takes = 20.0
    made.script["a"] = made.script["b"] = [lambda: failing(500)]
    made.run()
    assert made.sent == ["a/1", "a/1"]


def test_the_retry_budget_bounds_retries_and_not_fallbacks() -> None:
    made = world()
    made.script["a"] = [refused]
    made.script["b"] = [ok]
    for _ in range(4):
        made.run()
        made.now += 0.001
    # Three in the first second, then none.
    assert made.sent.count("a/1") + made.sent.count("a/2") <= 4 + 3 + 1
    assert made.sent.count("b/1") == 4
    assert made.states.refused_retries.get("a", 0) + made.sent.count("a/1") >= 5


def test_waits_are_bounded_and_jittered() -> None:
    made = world()
    made.script["a"] = [refused]
    made.run()
    assert made.slept == [pytest.approx(0.2)]
    made = world()
    made.script["a"] = [lambda: failing(500)]
    made.run()
    assert made.slept == [pytest.approx(0.125)]


def test_a_mapping_narrows_the_routing() -> None:
    made = World(
        catalog(
            provider("a"),
            provider("b"),
            key("a", "1"),
            key("b", "1"),
            mapping("m", "a/ma", routing={"max_retries": 0, "fallback_on": ["rate"], "timeout": 7}),
            mapping("m", "b/mb", 1),
        )
    )
    made.script["a"] = [lambda: failing(500)]
    assert made.run().response.status == 500
    assert made.sent == ["a/1"]
    assert made.limits == [7.0]


# Bodies that are not held.


def test_a_streamed_body_is_sent_once() -> None:
    made = world()
    made.script["a"] = [lambda: failing(500)]
    call = made.call()
    call.request = type(call.request)("POST", b"/v1/audio", [], iter([b"x"]), chunked=True)
    route = made.router.route(made.access, "m", has_own_key=False)
    assert made.run_route(route, call).response.status == 500
    assert made.sent == ["a/1"]


def test_a_streamed_body_of_which_nothing_was_read_may_go_elsewhere() -> None:
    made = world()
    made.script["a"] = [refused]
    call = made.call(untouched=lambda: True)
    call.request = type(call.request)("POST", b"/v1/audio", [], iter([b"x"]), chunked=True)
    route = made.router.route(made.access, "m", has_own_key=False)
    assert made.run_route(route, call).target.provider == "b"


# Streams before the first output.


def test_nothing_of_a_rejected_stream_reaches_the_client() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, error_event(code="server_error", message="no"))]
    made.script["b"] = [lambda: stream(START, OUTPUT, DONE)]
    routed = made.run(streams=True)
    assert body_of(routed.response) == START + OUTPUT + DONE
    assert [attempt.reason for attempt, _ in made.superseded] == ["stream_error", "stream_error"]
    assert made.superseded[0][1].startswith(START)


def test_the_first_output_commits() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, OUTPUT, error_event(code="server_error"))]
    routed = made.run(streams=True)
    assert routed.target.provider == "a"
    assert b"server_error" in body_of(routed.response)
    assert not made.superseded


def test_the_hold_ends_in_time() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, None, OUTPUT, DONE)]

    def passed(seconds: float) -> None:
        made.now += seconds

    routed = made.run(streams=True)
    passed(0)
    assert body_of(routed.response) == START + OUTPUT + DONE
    assert made.sent == ["a/1"]


def test_without_another_key_or_target_a_stream_passes_at_once() -> None:
    made = only()
    made.script["a"] = [lambda: stream(START, error_event(code="server_error"))]
    routed = made.run(streams=True)
    assert b"server_error" in body_of(routed.response)
    assert made.sent == ["a/1"]


def test_a_hold_of_zero_passes_at_once() -> None:
    made = world(options=RoutingOptions(first_output_hold=0.0))
    made.script["a"] = [lambda: stream(START, error_event(code="server_error"))]
    assert b"server_error" in body_of(made.run(streams=True).response)


def test_an_error_event_of_the_clients_own_fault_passes() -> None:
    made = world()
    made.script["a"] = [lambda: stream(error_event(type="invalid_request_error", message="bad"))]
    assert b"bad" in body_of(made.run(streams=True).response)
    assert made.sent == ["a/1"]


class Translating(OpenAIProvider):
    """Its calls are translated, and its error events say what status they stand for."""

    def prepare(self, *args: Any) -> PreparedCall:
        translation = Translation(False, lambda event: orjson.loads(event)["error"]["status"])
        return dataclasses.replace(super().prepare(*args), translation=translation)

    def transform(
        self,
        target: Target,
        path: str,
        status: int,
        headers: HeaderList,
        translation: Translation | None = None,
    ) -> ResponseTransform | None:
        assert translation is not None
        return transformed(headers, WholeBody(bytes.upper))


def test_a_translated_stream_is_always_held() -> None:
    made = only()
    made.kind = Translating()
    made.script["a"] = [stream(START, None, OUTPUT)]
    routed = made.run(streams=True)
    assert routed.response.read_within(0.0) == START
    assert routed.transform is not None


@pytest.mark.parametrize(
    ("word", "status", "reason"),
    [("server_error", 529, "stream_error"), ("invalid_request_error", 400, "client")],
)
def test_an_error_at_the_beginning_of_a_translated_stream_is_a_response_of_its_own(
    word: str, status: int, reason: str
) -> None:
    made = only(max_retries=0)
    made.kind = Translating()
    made.script["a"] = [stream(START, error_event(type=word, status=status))]
    response = made.run(streams=True).response
    assert (response.status, response.ready, response.complete) == (status, True, False)
    assert response.headers == [("Content-Type", "application/json")]
    assert orjson.loads(body_of(response))["error"]["type"] == word
    assert made.reasons() == [reason]
    response.close()
    assert made.responses[0].closed


def test_a_stream_that_breaks_before_output_is_not_paid_for_twice() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, reset())]
    with pytest.raises(UpstreamError):
        body_of(made.run(streams=True).response)
    assert made.sent == ["a/1"]
    assert made.reasons() == ["stream_cut"]
    asked = world(options=RoutingOptions(fallback_on=frozenset({"reset"})))
    asked.script["a"] = [lambda: stream(START, reset())]
    assert asked.run(streams=True).target.provider == "b"
    assert [held for _, held in asked.superseded] == [START]


# Clients that leave, and what is given back.


class Left(gevent.GreenletExit):
    pass


def test_a_client_that_leaves_counts_against_nobody_and_frees_everything() -> None:
    made = world()
    made.script["a"] = [Left]
    for _ in range(20):
        with pytest.raises(Left):
            made.run()
    assert {each.state for each in made.states.breakers()} == {State.CLOSED}
    assert made.reasons() == ["abandoned"]
    made.script["a"] = [ok]
    assert made.run().response.status == 200
    health = made.states.key_health()
    assert {each.health.value for name, each in health if name == "a"} == {"healthy"}


def test_a_client_that_leaves_during_a_hold_closes_the_response() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, Left())]
    with pytest.raises(Left):
        made.run(streams=True)
    assert made.responses[0].closed


def test_a_client_that_leaves_while_a_retry_waits() -> None:
    made = world()
    made.script["a"] = [refused]

    def leave(_: float) -> None:
        raise Left

    made.sleep = leave  # type: ignore[method-assign]
    with pytest.raises(Left):
        made.run()
    made.script["a"] = [ok]
    assert made.run().target.provider == "a"


# Requests that one upstream keeps state for.


def test_a_pinned_request_has_one_key_and_no_fallback() -> None:
    made = World(
        catalog(
            provider("a", is_default=True),
            provider("b"),
            *[key("a", str(number)) for number in range(1, 6)],
            key("b", "1"),
            mapping("m", "a/ma"),
            mapping("m", "b/mb", 1),
        )
    )
    for _ in range(5):
        made.run(pinned=True, affinity=b"project")
    assert len(set(made.sent)) == 1
    made.script["a"] = [lambda: failing(401)]
    with pytest.raises(ProxyError) as caught:
        made.run(pinned=True, affinity=b"project")
    assert caught.value.code == "upstream_auth_failed"
    assert len(set(made.sent)) == 1


def test_a_pinned_key_at_its_limit_is_waited_for_by_the_client() -> None:
    made = World(catalog(provider("a", is_default=True), key("a", "1"), key("a", "2")))
    made.script["a"] = [lambda: failing(429, retry_after="30")]
    made.run(None, pinned=True, affinity=b"project")
    with pytest.raises(ProxyError) as caught:
        made.run(None, pinned=True, affinity=b"project")
    assert (caught.value.code, caught.value.retry_after) == ("upstream_unavailable", 30)
    assert len(made.sent) == 1


def test_a_pinned_key_that_was_refused_rests() -> None:
    made = World(catalog(provider("a", is_default=True), key("a", "1"), key("a", "2")))
    made.script["a"] = [lambda: failing(401)]
    for code in ("upstream_auth_failed", "upstream_unavailable"):
        with pytest.raises(ProxyError) as caught:
            made.run(None, pinned=True, affinity=b"project")
        assert caught.value.code == code
    assert caught.value.retry_after
    assert len(made.sent) == 1


# The project's own key.


def test_an_own_key_has_one_attempt_unless_it_asks_for_more() -> None:
    made = world()
    made.access = RoutingAccess()
    for outcome in (lambda: failing(500), lambda: failing(401), lambda: failing(429)):
        made.script["own"] = [outcome]
        routed = made.run_own()
        assert routed.response.status == outcome().status
        assert "x-should-retry" not in dict(routed.response.headers)
    assert len(made.sent) == 3


def test_an_own_key_with_retries() -> None:
    made = world()
    made.access = RoutingAccess(max_retries=2)
    made.script["own"] = [failing(500), refused(), ok()]
    assert made.run_own().response.status == 200
    assert made.sent == ["own/own"] * 3
    made.script["own"] = [lambda: failing(401)]
    assert made.run_own().response.status == 401
    assert len(made.sent) == 4


def test_an_own_key_with_a_breaker() -> None:
    made = world()
    made.access = RoutingAccess(breaker=True)
    made.script["own"] = [refused]
    for _ in range(5):
        with pytest.raises(ProxyError):
            made.run_own()
    codes = []
    for _ in range(9):
        with pytest.raises(ProxyError) as caught:
            made.run_own()
        codes.append(caught.value.code)
    assert codes.count("upstream_unavailable") >= 8


# Limits of time.


def test_limits_differ_for_streams_and_for_buffered_responses() -> None:
    made = world(timeout=50, ttft_timeout=5)
    made.run()
    made.run(streams=True)
    assert made.limits == [50.0, 5.0]


def test_a_buffered_response_must_end_in_time() -> None:
    made = only(timeout=50)
    made.script["a"] = [lambda: ScriptedResponse(200, [], b"begin", None, b"end")]
    routed = made.run()
    assert routed.response.read() == b"begin"
    made.now += 60
    with pytest.raises(UpstreamError) as caught:
        routed.response.read()
    assert caught.value.code == "upstream_timeout"


# Nothing leaks.


class Odd(OpenAIProvider):
    """A provider's defect: `prepare` or `transform` raises."""

    def __init__(self, where: str) -> None:
        self.where = where

    def prepare(self, *args: Any, **more: Any) -> Any:
        if self.where == "prepare":
            raise ZeroDivisionError
        return super().prepare(*args, **more)

    def transform(self, *args: Any, **more: Any) -> Any:
        if self.where == "transform":
            raise ZeroDivisionError
        return super().transform(*args, **more)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("where", ["prepare", "transform"])
def test_a_defect_of_a_provider_frees_everything(where: str, status: int) -> None:
    made = only(max_retries=0)
    made.script["a"] = [lambda: failing(500)]
    for _ in range(5):
        made.run()
    made.now += 15  # half open: the next one is the probe
    made.script["a"] = [lambda: failing(status)]
    made.kind = Odd(where)
    with pytest.raises(ZeroDivisionError):
        made.run()
    made.kind = OpenAIProvider()
    assert all(each.closed for each in made.responses[5:])
    (held,) = [each.state.in_flight for each in made.states.pools()[0]._keys.values()]
    assert held == 0
    made.script["a"] = [ok]
    assert made.run().response.status == 200, "the probe is free again"


def test_a_probe_that_succeeds_at_its_second_attempt_closes_the_first_response() -> None:
    made = world()
    made.script["a"] = made.script["b"] = [lambda: failing(500)]
    for _ in range(5):
        made.run()
    before = len(made.responses)
    made.script["a"] = made.script["b"] = [failing(500), ok()]
    assert made.run().response.status == 200
    assert made.responses[before].closed


# Heads whose body does not come.


@pytest.mark.parametrize("broken", [reset, too_slow])
def test_an_errors_status_decides_though_its_body_is_cut(broken: Callable[[], Any]) -> None:
    made = world()
    made.script["a/1"] = [lambda: ScriptedResponse(401, [], broken())]
    assert made.run().target.provider == "a"
    assert made.sent == ["a/1", "a/2"]
    assert made.reasons() == ["auth", None]
    assert made.responses[0].closed


# Azure.


def test_a_rate_limit_of_azure_is_one_of_all_keys() -> None:
    made = World(
        catalog(
            provider("a", "azure", key_strategy="priority"),
            provider("b"),
            *[key("a", number) for number in "12"],
            key("b", "1"),
            mapping("m", "a/ma"),
            mapping("m", "b/mb", 1),
            mapping("other", "a/mo"),
        )
    )
    made.script["a"] = [lambda: failing(429, retry_after="30")]
    assert made.run().target.provider == "b"
    assert made.run().target.provider == "b"
    assert made.sent == ["a/1", "b/1", "b/1"]
    made.script["a"] = [ok]
    assert made.run("other").target.provider == "a", "another deployment has its own quota"
    made.script["a/1"] = [lambda: failing(401)]
    assert made.run("other").response.status == 200
    assert made.sent[-2:] == ["a/1", "a/2"], "a key's own fault is no limit of the deployment"


# What a name that nothing else knows may do to the others.


@pytest.mark.parametrize("status", [403, 429])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_model_of_the_clients_own_choice_cools_no_key_for_others(
    status: int, pinned: bool
) -> None:
    made = World(catalog(provider("a", is_default=True), key("a", "1")))
    made.script["a"] = [lambda: failing(status)]
    with contextlib.suppress(ProxyError):
        made.run("not-for-you", pinned=pinned)
    with contextlib.suppress(ProxyError):
        made.run(None, pinned=True)  # `GET /v1/files`, which the key may not read
    made.script["a"] = [ok]
    assert made.run("model").response.status == 200
    with pytest.raises(ProxyError):
        made.run("not-for-you", pinned=pinned)
    with pytest.raises(ProxyError):
        made.run(None, pinned=True)


# Superseded attempts.


def test_what_the_client_gets_is_not_superseded() -> None:
    made = world(max_retries=0)
    made.script["a"] = [lambda: failing(504)]
    assert made.run().response.status == 504
    assert made.superseded == []
    made.script["a"] = [lambda: stream(START, error_event(code="server_error"))]
    made.script["b"] = [lambda: failing(500)]
    routed = made.run(streams=True)
    assert b"server_error" in body_of(routed.response)
    assert made.superseded == []


def test_usage_that_came_before_the_limit_of_time_is_not_lost() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, too_slow())]
    with pytest.raises(UpstreamError):
        made.run(streams=True)
    assert [held for _, held in made.superseded] == [START]


def test_a_superseded_attempt_is_reported_though_the_client_leaves() -> None:
    made = world()
    made.script["a"] = [lambda: stream(START, error_event(code="server_error"))]
    made.script["b"] = [Left]
    with pytest.raises(Left):
        made.run(streams=True)
    assert len(made.superseded) == 2
    assert all(each.closed for each in made.responses)


# What SDKs are told.


@pytest.mark.parametrize(
    ("wait", "told"), [("30", None), ("60", None), ("61", "false"), (None, "false")]
)
def test_sdks_may_retry_when_a_short_wait_is_named(wait: str | None, told: str | None) -> None:
    made = only()
    more = {} if wait is None else {"retry_after": wait}
    made.script["a"] = [refused(), failing(503, **more)]
    headers = dict(made.run().response.headers)
    assert made.sent == ["a/1", "a/1"]
    assert headers.get("x-should-retry") == told
    assert headers.get("retry-after") == wait


def test_a_429_beside_a_refused_key_names_the_wait() -> None:
    made = World(
        catalog(
            provider("a", key_strategy="priority"),
            key("a", "1"),
            key("a", "2"),
            mapping("m", "a/ma"),
        )
    )
    made.script["a/1"] = [lambda: failing(429, retry_after_ms="20000")]
    made.script["a/2"] = [lambda: failing(401)]
    headers = dict(made.run().response.headers)
    assert headers["Retry-After"] == "20"
    assert "x-should-retry" not in headers


# Streams that the request does not tell.


def test_an_event_stream_has_no_limit_of_time_as_a_whole() -> None:
    made = only(timeout=50)
    made.script["a"] = [lambda: stream(START, None, OUTPUT, DONE)]
    routed = made.run()
    assert routed.response.read() == START
    made.now += 60
    assert body_of(routed.response) == OUTPUT + DONE


# A configuration that changes under a request.


def test_a_catalog_that_is_replaced_meanwhile() -> None:
    made = world()

    def replaced() -> ScriptedResponse:
        made.states.replace(catalog(provider("c"), key("c", "1"), mapping("m", "c/mc")))
        return failing(429, retry_after="30")

    made.script["a/1"] = [replaced]
    assert made.run().response.status == 200
    assert made.sent == ["a/1", "a/2"]
    made.states.replace(made.catalog)
    health = made.states.pools()[0]
    assert [each.state.in_flight for each in health._keys.values()] == [0, 0]


# Whatever happens.

OUTCOMES: list[Callable[[], Any]] = [
    ok,
    lambda: stream(START, OUTPUT, DONE),
    lambda: stream(START, error_event(code="server_error")),
    lambda: stream(START, error_event(code="rate_limit_exceeded")),
    lambda: stream(START, OUTPUT, error_event(code="server_error")),
    lambda: stream(START, reset()),
    refused,
    reset,
    silence,
    too_slow,
    *[
        lambda status=status: failing(status)
        for status in (400, 401, 402, 403, 404, 429, 500, 503, 504, 529)
    ],
    lambda: failing(429, retry_after="1"),
    lambda: failing(429, retry_after="9999"),
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=60),
    st.integers(1, 6),
    st.booleans(),
    st.lists(st.floats(0, 100), min_size=1, max_size=10),
)
def test_any_order_of_outcomes_keeps_the_bounds(
    outcomes: list[Callable[[], Any]], most: int, streams: bool, passing: list[float]
) -> None:
    made = World(
        catalog(
            provider("a"),
            provider("b"),
            provider("c"),
            *[key(name, number) for name in "abc" for number in "123"],
            mapping("m", "a/m"),
            mapping("m", "b/m", 1),
            mapping("m", "c/m", 2),
        ),
        options=RoutingOptions(max_attempts=most),
    )
    queue = list(outcomes)

    def following() -> Any:
        return (queue.pop(0) if queue else ok)()

    for name in "abc":
        made.script[name] = [following]
    for seconds in passing:
        before = len(made.responses)
        body = b""
        with contextlib.suppress(ProxyError):
            body = body_of(made.run(streams=streams).response)
        rotations = {"auth", "forbidden", "payment", "rate"}
        rotations |= {f"stream_{name}" for name in rotations}
        counted = [reason for reason in made.reasons() if reason not in rotations]
        assert len(counted) <= most
        # Never a second output: at most one response's text reached the client.
        assert body.count(OUTPUT) <= 1
        # All that were rejected are closed.
        assert all(each.closed or each.complete for each in made.responses[before:-1])
        for _, budget in list(made.states._budgets.items()):
            assert budget.available >= 0
        made.now += seconds
    # Everything comes back by itself.
    made.now += 7200
    for name in "abc":
        made.script[name] = [ok]
    assert made.run().response.status == 200


# What one client's requests may do to the keys of others, and how many requests they become.


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_key_that_was_refused_rests_whatever_it_served_before(status: int) -> None:
    made = only()
    assert made.run().response.status == 200
    made.script["a"] = [lambda: failing(status)]
    for _ in range(2):
        with pytest.raises(ProxyError):
            made.run()
    assert made.sent == ["a/1"] * 2


def test_a_403_of_a_model_that_the_key_never_served_is_believed() -> None:
    made = World(catalog(provider("a"), key("a", "1")))
    assert made.run("a/good").response.status == 200
    made.script["a"] = [lambda: failing(403)]
    for _ in range(2):
        with pytest.raises(ProxyError):
            made.run("a/other")
    assert made.sent == ["a/1"] * 2


def test_an_exhausted_quota_is_believed_although_the_key_worked() -> None:
    made = only()
    assert made.run().response.status == 200
    made.script["a"] = [lambda: failing(429, code="insufficient_quota")]
    for _ in range(2):
        with pytest.raises(ProxyError):
            made.run()
    assert made.sent == ["a/1"] * 2


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_request_without_a_model_cools_no_key_for_those_with_one(status: int) -> None:
    made = World(catalog(provider("a", is_default=True), key("a", "1")))
    made.script["a"] = [lambda: failing(status)]
    with pytest.raises(ProxyError):
        made.run(None, pinned=True)
    made.script["a"] = [ok]
    assert made.run("model").response.status == 200


@pytest.mark.parametrize("headers", [{}, {"retry_after": "0"}])
def test_one_request_becomes_a_bounded_number(headers: dict[str, str]) -> None:
    names = [f"p{number}" for number in range(20)]
    made = World(
        catalog(
            *(provider(name, max_retries=10) for name in names),
            *(key(name, str(number)) for name in names for number in range(10)),
            *(mapping("m", f"{name}/m", place) for place, name in enumerate(names)),
        )
    )
    for name in names:
        made.script[name] = [lambda: failing(429, **headers)]
    assert made.run().response.status == 429
    assert len(made.sent) == MAX_SENT


def test_an_error_that_drips_is_judged_by_what_has_come_and_relayed_as_it_comes() -> None:
    made = only(max_retries=0)
    response = ScriptedResponse(400, [], *[b"x"] * 100)
    took = response.read_within

    def slowly(seconds: float) -> bytes | None:
        made.now += 1.0
        return took(seconds)

    response.read_within = slowly  # type: ignore[method-assign]
    made.script["a"] = [response]
    began = made.now
    routed = made.run()
    assert made.now - began <= MAX_ERROR_SECONDS
    assert body_of(routed.response) == b"x" * 100


@pytest.mark.parametrize(
    ("limits", "rests"),
    [
        ({"tokens": (30_000, 29_000), "requests": (500, 499)}, False),
        ({"tokens": (30_000, 15_000)}, False),
        ({"tokens": (30_000, 29_000), "requests": (500, 0)}, True),
        ({"tokens": (30_000, 100), "requests": (500, 499)}, True),
        ({"requests": (500, 499)}, True),
        ({"tokens": ("", "x")}, True),
        ({}, True),
    ],
)
def test_a_request_that_is_larger_than_the_limit_cools_no_key(
    limits: dict[str, tuple[Any, Any]], rests: bool
) -> None:
    made = only(max_retries=0)
    headers = {
        f"x_ratelimit_{part}_{kind}": str(value)
        for kind, pair in limits.items()
        for part, value in zip(("limit", "remaining"), pair, strict=True)
    }
    made.script["a"] = [lambda: failing(429, **headers)]
    assert made.run().response.status == 429
    made.script["a"] = [ok]
    if rests:
        with pytest.raises(ProxyError):
            made.run()
    else:
        assert made.run().response.status == 200


def test_an_error_that_repeats_the_shared_key_does_not_show_it() -> None:
    made = only(max_retries=0)
    repeats = b'{"error":{"message":"Authorization: Bearer secret-1"}}'
    made.script["a"] = [ScriptedResponse(400, [], repeats[:40], repeats[40:])]
    assert body_of(made.run().response) == repeats.replace(b"secret-1", b"********")


def test_the_error_of_a_projects_own_key_is_relayed_as_it_is() -> None:
    made = only()
    made.script["own"] = [ScriptedResponse(400, [], b"Bearer own")]
    assert body_of(made.run_own().response) == b"Bearer own"


def test_an_error_of_a_certificate_does_not_name_the_shared_providers_host() -> None:
    made = only(max_retries=0)
    host = made.catalog.providers["a"].target(None).host
    text = f"TLS: Hostname mismatch, certificate is not valid for '{host}'."
    made.script["a"] = [ConnectFailed(text)]
    with pytest.raises(ConnectFailed) as caught:
        made.run()
    assert host not in str(caught.value)
    assert "Hostname mismatch" in str(caught.value)
    assert made.states.last_errors == {"a": text}, "the operator sees it"
