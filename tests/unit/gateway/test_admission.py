"""The order of the checks, and what is known of a request that one of them refuses."""

import dataclasses
from typing import Any

import gevent
import pytest

from proxy.auth.principal import TokenRefused
from proxy.core.errors import ConnectFailed, LimiterError, ResponseBroken
from proxy.events.gate import Gate
from proxy.gateway.inflight import ClientDisconnected, ShuttingDown
from proxy.policy.accounts import Account
from proxy.ratelimit.limiter import Bucket
from proxy.ratelimit.request_limiter import Rates
from tests.support.limiter_factories import Limited
from tests.support.relay_factories import (
    CHAT,
    EVENT,
    JSON,
    JSON_BODY,
    ORIGIN,
    PRINCIPAL,
    SSE,
    USAGE,
    Access,
    FakeResponse,
    Result,
    World,
    failing,
    sized,
    used_up,
)

EXPIRED = TokenRefused("token_expired", PRINCIPAL)


def test_a_refused_token_is_named_in_the_event() -> None:
    world = World(access=Access(refusal=EXPIRED))
    assert world.ask().code == 401
    assert (world.event.token_id, world.event.error_code) == (PRINCIPAL.token_id, "token_expired")
    assert not world.events.intents


def test_while_events_have_no_room_nothing_is_asked() -> None:
    gate = Gate(0)
    gate.queue_full(True)
    world = World(access=Access(refusal=EXPIRED), gate=gate)
    refused = world.ask()
    assert (refused.code, refused.all("Retry-After")) == (503, ["1"])
    assert (world.event.error_code, world.event.token_id) == ("overloaded", None)
    assert len(world.in_flight) == 0
    gate.queue_full(False)
    assert world.ask().code == 401


def test_a_request_that_waits_for_room_goes_on_when_there_is_some() -> None:
    gate = Gate()
    gate.queue_full(True)
    world = World(gate=gate)
    asking = gevent.spawn(world.ask)
    gevent.sleep(0)
    assert (len(world.in_flight), len(world.events.intents)) == (1, 0)
    gate.queue_full(False)
    assert asking.get(timeout=5).code == 200


def test_what_counts_comes_last() -> None:
    world = World(access=used_up())
    assert world.ask("GET", "/v1/a/../b").code == 400
    assert world.ask().code == 429
    assert not world.events.intents


def test_what_was_admitted_is_settled_once_whichever_way_it_ends() -> None:
    world = World()
    world.ask("POST")
    assert world.access.settled == [21]
    world = World(FakeResponse([EVENT, USAGE], headers=SSE))
    world.ask("POST", stop_after=1)
    assert world.access.settled == [0], "the client left before the usage came"
    world = World(FakeResponse([EVENT, USAGE, ResponseBroken()], headers=SSE))
    world.ask("POST")
    assert world.access.settled == [3], "partly seen is used all the same"
    for failure in (ConnectFailed("away"), ZeroDivisionError(), ClientDisconnected(), SystemExit()):
        world = failing(failure)
        world.ask()
        assert world.access.settled == [0]


def test_what_was_not_admitted_is_not_settled() -> None:
    for access in (Access(refusal=EXPIRED), used_up()):
        world = World(access=access)
        world.ask()
        world.ask("GET", "/v1/a/../b")
        assert access.settled == []


# Limits.

RATES = Rates(all_clients=100, address=3, token=10, project=20)
BUSY = dataclasses.replace(
    PRINCIPAL,
    accounts=(
        Account(kind="project", id="project-1", max_concurrent=1),
        Account(kind="token", id="token-1", rate_limit_tpm=40),
    ),
)


def test_who_has_no_limits_is_asked_for_nothing() -> None:
    limited = Limited()
    world = World(limited=limited)
    result = world.ask()
    assert result.code == 200
    assert limited.near.calls == []
    assert not [name for name, _ in result.headers if "ratelimit" in name]


def test_an_address_is_refused_before_its_token_is_looked_at() -> None:
    world = World(limited=Limited(RATES))
    for _ in range(3):
        assert world.ask(token="sk-wrong").code == 401
    result = world.ask(token="sk-wrong")
    assert (result.code, result.one("Retry-After")) == (429, "20")
    assert world.access.steps == ["authenticate"] * 3
    assert world.events[-1].error_code == "rate_limit_exceeded"


def test_rates_come_after_the_other_checks_and_before_the_quota() -> None:
    limited = Limited(RATES)
    world = World(access=used_up(), limited=limited)
    assert world.ask("GET", "/v1/a/../b").code == 400
    assert world.ask("POST", "/v1/chat", **sized(b"x" * 5000)).code == 413
    assert (limited.near.calls, limited.near.charged) == ([], {"ip:192.0.2.1": 2})
    assert world.ask().code == 429
    assert limited.near.calls == [["ip:192.0.2.1", "token:token-1", "project:project-1", "all"]]
    assert limited.near.charged == {"ip:192.0.2.1": 2}


def test_a_place_is_taken_before_the_body_and_given_back_whatever_becomes_of_it() -> None:
    limited = Limited()
    world = World(access=Access(principal=BUSY), limited=limited)
    cut = {"headers": [*JSON_BODY, ("Content-Length", "10")], "pieces": [b"{}"]}
    assert world.ask("POST", "/v1/chat", **cut).code == 400
    assert (limited.near.calls, limited.places.taken) == ([], {"project:project-1": 0})
    limited.places.taken["project:project-1"] = 1
    assert world.ask("POST", "/v1/chat", **cut).code == 429
    assert [event.bytes_in for event in world.events] == [2, 0]


def test_what_is_refused_before_the_rates_is_charged_to_its_address_where_it_is_shared() -> None:
    limited = Limited(RATES, shared=True)
    assert limited.shared is not None
    world = World(limited=limited)
    world.ask("GET", "/v1/a/../b")
    world.ask(token="sk-wrong")
    assert (limited.shared.calls, limited.shared.charged) == ([], {"ip:192.0.2.1": 2})
    assert world.ask().code == 200
    assert limited.shared.charged == {"ip:192.0.2.1": 2}
    assert limited.shared.levels[Bucket("ip:192.0.2.1", 3)] == 0


@pytest.mark.parametrize("shared", [False, True])
def test_a_response_reports_the_tightest_limit_and_keeps_the_upstream_s_headers(
    shared: bool,
) -> None:
    theirs = [("x-ratelimit-limit-requests", "9"), ("x-ratelimit-remaining-requests", "8")]
    world = World(
        FakeResponse([CHAT], headers=[*JSON, *theirs]),
        access=Access(principal=BUSY),
        limited=Limited(RATES, shared=shared),
        origins=["https://a.test"],
    )
    result = world.ask(headers=[ORIGIN])
    assert [item for item in result.headers if item[0].startswith("x-ratelimit")] == theirs
    assert [item for item in result.headers if item[0].startswith("x-proxy-ratelimit")] == [
        ("x-proxy-ratelimit-limit-requests", "3"),
        ("x-proxy-ratelimit-remaining-requests", "2"),
        ("x-proxy-ratelimit-reset-requests", "20s"),
        ("x-proxy-ratelimit-limit-tokens", "40"),
        ("x-proxy-ratelimit-remaining-tokens", "40"),
        ("x-proxy-ratelimit-reset-tokens", "0s"),
    ]
    assert result.one("Access-Control-Expose-Headers") == "*"  # a page may read them


def test_reported_usage_is_charged_and_refuses_the_next() -> None:
    limited = Limited()
    world = World(lambda: FakeResponse([CHAT]), access=Access(principal=BUSY), limited=limited)
    assert world.ask("POST").code == world.ask("POST").code == 200  # 21 tokens each
    result = world.ask("POST")
    assert result.code == 429
    assert limited.near.charged == {"token-tpm:token-1": 42}
    assert result.one("x-ratelimit-remaining-tokens") == "0"
    assert limited.places.taken == {"project:project-1": 0}


def test_one_request_at_a_time_until_its_response_has_ended() -> None:
    limited = Limited()
    inner: list[Result] = []
    world = World(access=Access(principal=BUSY), limited=limited)
    ask_again = lambda: inner.append(world.ask()) or CHAT  # type: ignore[func-returns-value]  # noqa: E731
    world.transport.response = FakeResponse([ask_again])
    result = world.ask()
    assert (result.code, result.body) == (200, CHAT)
    assert (inner[0].code, inner[0].one("Retry-After")) == (429, "1")
    assert b"at once for this project: 1" in inner[0].body
    assert limited.places.taken == {"project:project-1": 0}


@pytest.mark.parametrize(
    "response",
    [
        lambda: ConnectFailed(),
        lambda: ClientDisconnected(),
        lambda: ShuttingDown(),
        lambda: KeyboardInterrupt(),
        lambda: ValueError(),
        lambda: FakeResponse([CHAT, ResponseBroken()]),
        lambda: FakeResponse([b"", ClientDisconnected()]),
        lambda: FakeResponse([CHAT], headers=[("Content-Type", "text/event-stream")]),
    ],
)
def test_a_place_is_given_back_whichever_way_it_ends(response: Any) -> None:
    limited = Limited()
    world = World(response, access=Access(principal=BUSY), limited=limited)
    world.ask(stop_after=1)
    assert limited.places.taken == {"project:project-1": 0}


def test_a_place_is_given_back_when_a_later_check_refuses() -> None:
    limited = Limited()
    world = World(access=used_up(principal=BUSY), limited=limited)
    assert world.ask().code == 429
    assert limited.places.taken == {"project:project-1": 0}


def test_a_limiter_that_fails() -> None:
    limited = Limited(RATES, shared=True)
    assert limited.shared is not None
    limited.shared.error = LimiterError()
    result = World(limited=limited).ask()
    assert (result.code, result.one("Retry-After")) == (503, "2")
    assert b"store_unavailable" in result.body
    assert b"Rate limits cannot be checked" in result.body
