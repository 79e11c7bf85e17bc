"""Counts that a killed worker had not written (`proxy/auth/shortfalls.py`)."""

from collections.abc import Collection, Mapping

import pytest

from proxy.auth import shortfalls as module
from proxy.auth.shortfalls import Shortfalls
from proxy.core.errors import StoreError
from proxy.store.counters import Account
from tests.support.clock import Clock
from tests.support.wait import wait_until


class Accounts:
    """`tokens`: token id → LLM tokens counted, and in the ledger. `requests`, `hits`: likewise."""

    def __init__(self) -> None:
        self.tokens: dict[str, tuple[int, int]] = {}
        self.requests: dict[str, tuple[int, int]] = {}
        self.hits: dict[str, tuple[int, int]] = {}
        self.asked: list[list[str]] = []
        self.error: Exception | None = None
        self.made_good: list[tuple[str, int, int]] = []

    def accounted(self, token_ids: Collection[str]) -> Mapping[str, Account]:
        self.asked.append(list(token_ids))
        if self.error is not None:
            raise self.error
        return {name: self._account(name) for name in token_ids if name in self.tokens}

    def _account(self, name: str) -> Account:
        requests, hits = self.requests.get(name, (0, 0)), self.hits.get(name, (0, 0))
        return Account(*self.tokens[name], *requests, *hits)

    def make_good(self, token_id: str, account: Account) -> bool:
        if self._account(token_id) != account:
            return False
        missing = account.tokens_accounted - account.tokens_used
        self.made_good.append((token_id, account.tokens_used, missing))
        return True


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shortfalls(accounts: Accounts, clock: Clock) -> Shortfalls:
    return Shortfalls(accounts, clock)


def test_a_token_that_lacks_some_gets_them_once_it_is_quiet(
    shortfalls: Shortfalls, accounts: Accounts
) -> None:
    accounts.tokens = {"a": (100, 90), "whole": (5, 5), "imported": (50, 5)}
    shortfalls.killed([*accounts.tokens, "gone"])
    shortfalls.compare()
    accounts.tokens["a"] = (100, 130)  # the ledger was behind
    shortfalls.compare()
    assert not accounts.made_good
    shortfalls.compare()
    assert accounts.made_good == [("a", 100, 30)]
    shortfalls.compare()
    assert accounts.asked[-1] == []
    shortfalls.close()


def test_requests_are_made_good_like_llm_tokens(
    shortfalls: Shortfalls, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    accounts.tokens = {"a": (9, 9), "b": (9, 9)}
    accounts.requests = {"a": (3, 5), "b": (5, 3)}
    shortfalls.killed([*accounts.tokens])
    shortfalls.compare()
    shortfalls.compare()
    assert accounts.made_good == [("a", 9, 0)]
    assert (
        "2 requests, 0 cache hits and 0 LLM tokens of a killed worker are now counted"
        in caplog.text
    )
    shortfalls.close()


def test_cache_hits_are_made_good_like_requests(
    shortfalls: Shortfalls, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    accounts.tokens = {"a": (9, 9), "b": (9, 9)}
    accounts.hits = {"a": (3, 5), "b": (5, 3)}
    shortfalls.killed([*accounts.tokens])
    shortfalls.compare()
    shortfalls.compare()
    assert accounts.made_good == [("a", 9, 0)]
    assert "0 requests, 2 cache hits and 0 LLM tokens of a killed worker" in caplog.text
    shortfalls.close()


def test_one_that_is_in_use_is_looked_at_again_and_not_for_ever(
    shortfalls: Shortfalls, accounts: Accounts, clock: Clock
) -> None:
    shortfalls.killed(["a"])
    for number in range(10):
        accounts.tokens["a"] = (number, number + 5)
        shortfalls.compare()
    clock.now += 900
    shortfalls.compare()
    shortfalls.compare()
    assert (accounts.made_good, accounts.asked[-1]) == ([], [])
    shortfalls.close()


def test_a_store_that_is_away_is_asked_again(shortfalls: Shortfalls, accounts: Accounts) -> None:
    accounts.tokens = {"a": (1, 4)}
    shortfalls.killed(["a"])
    shortfalls.compare()
    accounts.error = StoreError()
    shortfalls.compare()
    accounts.error = None
    shortfalls.compare()
    assert accounts.made_good == [("a", 1, 3)]
    shortfalls.close()


def test_it_runs_while_tokens_wait_and_a_defect_does_not_end_it(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_INTERVAL", 0.001)
    shortfalls = Shortfalls(accounts)
    for number in (1, 2):
        accounts.tokens = {"a": (1, 4)}
        accounts.error = RuntimeError("a defect")
        asked = len(accounts.asked)
        shortfalls.killed(["a"])
        wait_until(lambda asked=asked: len(accounts.asked) > asked + 1)  # type: ignore[misc]
        accounts.error = None
        wait_until(lambda number=number: len(accounts.made_good) == number)  # type: ignore[misc]
        wait_until(lambda: not shortfalls._task.started)
    shortfalls.close()
