"""Which limiter is called and when; what is released, and what is charged later."""

import dataclasses

import pytest

from proxy.core.errors import ClientError, LimiterError
from proxy.policy.accounts import Account
from proxy.ratelimit import request_limiter as throttle_module
from proxy.ratelimit.limiter import Bucket
from proxy.ratelimit.request_limiter import Rates
from tests.support.limiter_factories import Limited
from tests.support.relay_factories import PRINCIPAL

ADDRESS = "192.0.2.1"
RATES = Rates(all_clients=100, address=3, token=10, project=20)
OTHERS = ["token:token-1", "project:project-1", "all"]
LLM = dataclasses.replace(
    PRINCIPAL,
    accounts=(
        Account(kind="project", id="project-1"),
        Account(kind="token", id="token-1", rate_limit_tpm=1000, max_concurrent=1),
    ),
)


def test_alone_the_address_is_looked_at_first_and_all_is_taken_together() -> None:
    limited = Limited(RATES)
    passage = limited.throttle.check_client(ADDRESS)
    limited.throttle.take(passage, PRINCIPAL)
    assert limited.near.calls == [[f"ip:{ADDRESS}", *OTHERS]]
    passage.end()
    assert limited.near.charged == {}, "it has paid"
    assert dict(passage.headers()) == {
        "x-proxy-ratelimit-limit-requests": "3",
        "x-proxy-ratelimit-remaining-requests": "2",
        "x-proxy-ratelimit-reset-requests": "20s",
    }


def test_shared_one_call_takes_everything() -> None:
    limited = Limited(RATES, shared=True)
    assert limited.shared is not None
    passage = limited.throttle.check_client(ADDRESS)
    assert limited.shared.calls == []
    limited.throttle.take(passage, PRINCIPAL)
    assert limited.near.calls == [[f"near-ip:{ADDRESS}"]]
    assert limited.shared.calls == [[f"ip:{ADDRESS}", *OTHERS]]
    passage.end()
    assert limited.shared.charged == {}
    assert ("x-proxy-ratelimit-remaining-requests", "2") in passage.headers()


def test_a_request_that_is_refused_elsewhere_is_charged_for_its_address() -> None:
    limited = Limited(RATES, shared=True)
    assert limited.shared is not None
    passage = limited.throttle.check_client(ADDRESS)
    passage.end()
    passage.end()
    assert limited.shared.charged == {f"ip:{ADDRESS}": 1}
    # By its token's limit as well, of which the shared limiter took nothing.
    limited.shared.levels.update(dict.fromkeys(limited.shared.levels, 0.0))
    passage = limited.throttle.check_client("192.0.2.2")
    limited.shared.levels[limited.throttle._compile(PRINCIPAL).charges[0].bucket] = 0.0
    with pytest.raises(ClientError):
        limited.throttle.take(passage, PRINCIPAL)
    passage.end()
    assert limited.shared.charged["ip:192.0.2.2"] == 1


def test_an_address_that_is_refused_is_charged_nothing() -> None:
    limited = Limited(RATES, shared=True)
    assert limited.shared is not None
    passage = limited.throttle.check_client(ADDRESS)
    limited.shared.levels[passage.unsettled[0].bucket] = 0.0
    with pytest.raises(ClientError, match="your client address: 3 requests"):
        limited.throttle.take(passage, PRINCIPAL)
    passage.end()
    assert limited.shared.charged == {}
    assert limited.throttle.refused["address"] == 1


@pytest.mark.parametrize("shared", [False, True])
def test_a_flood_ends_at_this_node(shared: bool) -> None:
    limited = Limited(RATES, shared=shared)
    for _ in range(3):
        limited.throttle.check_client(ADDRESS).end()
    with pytest.raises(ClientError, match="your client address: 3 requests") as caught:
        limited.throttle.check_client(ADDRESS)
    assert caught.value.retry_after == 20
    assert limited.throttle.refused["address"] == 1
    assert limited.shared is None or limited.shared.calls == []


@pytest.mark.parametrize(("empty", "limit"), [(0, "token"), (1, "project"), (2, "global")])
def test_the_refusal_says_which_limit(empty: int, limit: str) -> None:
    limited = Limited(RATES)
    bucket = limited.throttle._compile(PRINCIPAL).charges[empty].bucket
    limited.near.levels[bucket] = 0.0
    passage = limited.throttle.check_client(ADDRESS)
    with pytest.raises(ClientError, match=f": {bucket.per_minute} requests per minute"):
        limited.throttle.take(passage, PRINCIPAL)
    assert {k: n for k, n in limited.throttle.refused.items() if n} == {limit: 1}
    assert passage.headers() == []


def test_llm_tokens_are_charged_when_they_are_known() -> None:
    limited = Limited()
    assert not limited.throttle.always
    assert LLM.throttled
    passage = limited.throttle.new_reservation()
    limited.throttle.take(passage, LLM)
    assert dict(passage.headers())["x-proxy-ratelimit-remaining-tokens"] == "1000"
    passage.end()
    passage.spend(0)
    assert limited.near.charged == {}
    passage.spend(1200)
    assert limited.near.charged == {"token-tpm:token-1": 1200}
    with pytest.raises(ClientError) as caught:
        limited.throttle.take(limited.throttle.new_reservation(), LLM)
    assert caught.value.retry_after == 13
    names = {name for name, _ in caught.value.headers}
    assert names == {f"x-ratelimit-{what}-tokens" for what in ("limit", "remaining", "reset")}


@pytest.mark.parametrize(("held", "taken"), [(7, 7), (4096, 100)])
def test_what_a_request_may_cost_is_held_up_to_a_tenth(held: int, taken: int) -> None:
    limited = Limited()
    (tokens,) = (each for each, _ in limited.throttle._compile(LLM).charges if "tpm" in each.key)
    first, second = limited.throttle.new_reservation(), limited.throttle.new_reservation()
    for passage in (first, second):
        limited.throttle.take(passage, LLM, held)
    assert limited.near.levels[tokens] == 1000 - 2 * taken
    assert dict(first.headers())["x-proxy-ratelimit-remaining-tokens"] == "1000"
    first.spend(30)
    first.spend(0)
    assert limited.near.levels[tokens] == 1000 - taken - 30
    second.spend(0)
    assert limited.near.levels[tokens] == 1000 - 30


def test_at_most_ten_that_cost_much_pass_at_once() -> None:
    limited = Limited()
    for _ in range(10):
        limited.throttle.take(limited.throttle.new_reservation(), LLM, 4096)
    with pytest.raises(ClientError, match="1000 tokens per minute"):
        limited.throttle.take(limited.throttle.new_reservation(), LLM, 4096)


def test_a_request_that_was_refused_spends_nothing() -> None:
    limited = Limited(Rates(token=1))
    limited.throttle.take(limited.throttle.new_reservation(), LLM)
    passage = limited.throttle.new_reservation()
    with pytest.raises(ClientError):
        limited.throttle.take(passage, LLM)
    passage.spend(100)
    assert limited.near.charged == {}


def test_places_are_given_back_once() -> None:
    limited = Limited()
    first, second = limited.throttle.new_reservation(), limited.throttle.new_reservation()
    limited.throttle.reserve_concurrency(first, LLM)
    with pytest.raises(ClientError, match="at once for this access token: 1") as caught:
        limited.throttle.reserve_concurrency(second, LLM)
    assert caught.value.retry_after == 1
    assert limited.near.calls == []
    assert limited.throttle.refused["concurrency"] == 1
    second.end()
    assert limited.places.taken == {"token:token-1": 1}
    first.end()
    first.end()
    assert limited.places.taken == {"token:token-1": 0}


def test_a_place_is_given_back_when_the_limiter_is_away() -> None:
    limited = Limited(shared=True)
    assert limited.shared is not None
    limited.shared.error = LimiterError()
    passage = limited.throttle.new_reservation()
    limited.throttle.reserve_concurrency(passage, LLM)
    with pytest.raises(LimiterError, match="Rate limits cannot be checked"):
        limited.throttle.take(passage, LLM)
    assert limited.places.taken == {"token:token-1": 1}
    passage.end()
    assert limited.places.taken == {"token:token-1": 0}


def test_a_plan_is_made_once_for_a_principal_and_again_when_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    limits_for = throttle_module.limits_for

    def noting(*args: object) -> object:
        made.append(args)
        return limits_for(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(throttle_module, "limits_for", noting)
    monkeypatch.setattr(throttle_module, "_MAX_LIMITS", 2)
    limited = Limited(RATES)
    throttle = limited.throttle
    for _ in range(3):
        throttle.take(throttle.new_reservation(), PRINCIPAL)
    assert len(made) == 1
    throttle.take(throttle.new_reservation(), LLM)
    assert limited.near.calls[-1][-1] == "token-tpm:token-1"
    assert len(made) == 2
    for number in range(5):
        other = dataclasses.replace(PRINCIPAL, token_id=f"token-{number}")
        throttle.take(throttle.new_reservation(), other)
    assert len(throttle._compiled) <= 2


@pytest.mark.parametrize("shared", [False, True])
def test_logins(shared: bool) -> None:
    limited = Limited(RATES, shared=shared)
    throttle = limited.throttle
    for _ in range(3):
        throttle.check_login(ADDRESS)  # good ones are not counted
    for _ in range(3):
        throttle.check_login(ADDRESS)
        throttle.count_login(ADDRESS)
    with pytest.raises(ClientError) as caught:
        throttle.check_login(ADDRESS)
    assert caught.value.code == "rate_limit_exceeded"
    throttle.check_login("192.0.2.2")
    # What follows on /v1 meets the same bucket, on other nodes too.
    with pytest.raises(ClientError):
        throttle.check_client(ADDRESS)
    if limited.shared is not None:
        assert (limited.shared.calls, limited.shared.charged) == ([], {f"ip:{ADDRESS}": 3})


def test_without_a_limit_logins_are_not_looked_at() -> None:
    throttle = Limited(Rates(token=1)).throttle
    for _ in range(3):
        throttle.check_login(ADDRESS)
        throttle.count_login(ADDRESS)


def test_who_has_not_paid_yet_counts_and_is_forgotten_once_it_has() -> None:
    limited = Limited(Rates(address=3))
    passages = [limited.throttle.check_client(ADDRESS) for _ in range(3)]
    with pytest.raises(ClientError) as caught:
        limited.throttle.check_client(ADDRESS)
    assert caught.value.code == "rate_limit_exceeded"
    limited.throttle.check_client("192.0.2.2").end()
    passages[0].end()
    passages[0].end()
    limited.throttle.take(passages[1], PRINCIPAL)
    passages[1].end()
    with pytest.raises(ClientError):
        limited.throttle.check_client(ADDRESS)
    assert limited.near.levels[Bucket(f"ip:{ADDRESS}", 3)] == 1, "no debt, however many came"
    limited.near.levels[Bucket(f"ip:{ADDRESS}", 3)] = 2
    limited.throttle.check_client(ADDRESS).end()
    limited.near.levels[Bucket(f"ip:{ADDRESS}", 3)] = 0
    with pytest.raises(ClientError):
        limited.throttle.take(passages[2], PRINCIPAL)
    passages[2].end()
    assert limited.near.levels[Bucket(f"ip:{ADDRESS}", 3)] == 0
    limited.near.levels[Bucket(f"ip:{ADDRESS}", 3)] = 3
    assert [limited.throttle.check_client(ADDRESS) for _ in range(3)], "no debt is left"


def test_a_flood_from_an_address_keeps_no_login_out() -> None:
    limited = Limited(Rates(address=3))
    limited.near.levels[Bucket(f"ip:{ADDRESS}", 3)] = 0.5
    with pytest.raises(ClientError):
        limited.throttle.check_client(ADDRESS)
    limited.throttle.check_login(ADDRESS)
    limited.throttle.count_login(ADDRESS)
    with pytest.raises(ClientError):
        limited.throttle.check_login(ADDRESS)
