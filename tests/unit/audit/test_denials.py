"""Refused credentials: which entries they make, how soon, and how few at most."""

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.audit.denials import BURST, MAX_ADDRESSES, MINTING, WINDOW, DenialAggregator
from proxy.store.audit import PendingEntry
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> DenialAggregator:
    return DenialAggregator(clock)


def event(**more: Any) -> Any:
    fields = {"status_code": 401, "outcome": "rejected", "error_code": "token_not_found"}
    fields |= {"client_ip": "::1", "request_id": "r", "token_id": None, "project_id": None}
    return SimpleNamespace(**fields | more)


def told(drafts: list[PendingEntry]) -> list[tuple[str, int]]:
    return [(draft.client_ip, draft.details["count"]) for draft in drafts]


def test_a_refused_login_is_due_at_once_and_the_rest_a_minute_later(
    refusals: DenialAggregator, clock: Clock
) -> None:
    refusals.add("/manage", "::1", "invalid_management_token", request_id="r1")
    (draft,) = refusals.due()
    assert (draft.action, draft.actor, draft.outcome) == ("auth.denied", "anonymous", "denied")
    assert (draft.client_ip, draft.request_id) == ("::1", "r1")
    assert draft.details["where"] == "/manage"
    assert draft.details["codes"] == {"invalid_management_token": 1}
    for _ in range(500):
        refusals.add("/manage", "::1", "invalid_management_token")
        assert refusals.due() == []
    clock.now += WINDOW
    assert told(refusals.due()) == [("::1", 500)]
    clock.now += WINDOW
    assert refusals.due() == []
    refusals.add("/manage", "::1", "invalid_management_token")
    assert told(refusals.due()) == [("::1", 1)]


def test_a_few_on_v1_are_none_and_a_burst_is_one(refusals: DenialAggregator, clock: Clock) -> None:
    refusals.events([event()] * (BURST - 1))
    assert refusals.due() == []
    clock.now += WINDOW
    assert refusals.due() == []
    refusals.events([event(error_code="token_expired")] * (BURST - 1))
    assert refusals.due() == []
    refusals.events([event(), event(client_ip="::2")])
    (draft,) = refusals.due()
    assert draft.details["codes"] == {"token_expired": BURST - 1, "token_not_found": 1}
    refusals.events([event()] * 3)
    clock.now += WINDOW
    assert told(refusals.due()) == [("::1", 3)]


@pytest.mark.parametrize(
    "other", [{"status_code": 200}, {"outcome": "completed"}, {"status_code": 403}]
)
def test_only_our_own_401s(refusals: DenialAggregator, other: dict[str, Any]) -> None:
    refusals.events([event(**other)] * 100)
    assert refusals.due() == []


def test_whose_token_it_was(refusals: DenialAggregator) -> None:
    refusals.events([event(token_id="t1", project_id="p1")] * BURST)
    (draft,) = refusals.due()
    assert (draft.token_id, draft.project_id) == ("t1", "p1")
    for number in range(50):
        refusals.events([event(client_ip="::2", token_id=f"t{number}")])
    (draft,) = refusals.due()
    assert draft.token_id is None
    assert len(draft.details["tokens"]) == 5


def test_refused_mints_are_counted_by_token(refusals: DenialAggregator) -> None:
    for number in range(3):
        token = f"t{number % 2}"
        more = {"action": "token.mint", "actor": f"token:{token}", "token_id": token}
        refusals.add(MINTING, "::1", "mint_not_allowed", project_id="p", **more)
    first, second = refusals.due()
    assert [first.details["count"], second.details["count"]] == [2, 1]
    assert (first.action, first.actor) == ("token.mint", "token:t0")
    assert (first.token_id, first.project_id) == ("t0", "p")


def test_any_number_of_addresses_makes_few_entries(
    refusals: DenialAggregator, clock: Clock
) -> None:
    count = 0
    for second in range(60):
        for number in range(500):
            refusals.add("/manage", f"2001:db8::{second}:{number}", "invalid_management_token")
        count += len(refusals.due())
    clock.now += WINDOW
    last = refusals.due()
    assert count + len(last) == MAX_ADDRESSES + 2
    (rest,) = [draft for draft in last if not draft.client_ip]
    assert rest.details["addresses"] == f"more than {MAX_ADDRESSES}"
    assert rest.details["count"] > 29_000
    assert refusals.due() == []
    assert not refusals._windows


def test_at_a_stop_all_are_due(refusals: DenialAggregator) -> None:
    refusals.add("/manage", "::1", "invalid_management_token")
    refusals.due()
    refusals.add("/manage", "::1", "invalid_management_token")
    refusals.events([event(client_ip="::2")] * 3)
    assert told(refusals.due(all_of_them=True)) == [("::1", 1)]
