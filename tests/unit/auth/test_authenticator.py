"""The token check: its order, its codes, what is cached and what is never cached."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from proxy.auth.authenticator import Authenticator, bearer
from proxy.auth.known import KnownGrants
from proxy.auth.principal import Principal, TokenRefused
from proxy.core.errors import CipherError, ClientError, ProxyError, StoreError
from proxy.crypto import tokens
from proxy.policy.accounts import Account
from proxy.policy.policy import Policy
from proxy.quota.budgets import Budgets
from proxy.store.knowntokens import Confirmed, Found, Learned, Outdated
from proxy.store.records import AccessToken
from tests.support.clock import Clock
from tests.support.grants import PAST, SECRET, START, TOKEN, Store
from tests.support.process_holds import process_holds


def make(
    store: Store, clock: Clock | None = None, ttl: float = 1000, size: int = 10
) -> Authenticator:
    return Authenticator(
        store,
        store,
        store,
        Budgets(store, process_holds(), lambda token_id: 0),
        cache_size=size,
        cache_ttl=ttl,
        clock=clock or Clock(START.timestamp()),
    )


def refused(call: Callable[[], object]) -> ProxyError:
    with pytest.raises(ProxyError) as caught:
        call()
    return caught.value


def check(store: Store, authorization: str | None = f"Bearer {SECRET}") -> ProxyError:
    return refused(lambda: make(store).authenticate(authorization))


def test_a_good_token_becomes_a_principal() -> None:
    principal = make(Store(max_requests=5)).authenticate(f"Bearer {SECRET}")
    assert principal == Principal(
        token_id="token-1",
        token_mask="sk-JHjW...fQIZ",
        project_id="project-1",
        upstream_key="sk-upstream",
        expires_at=TOKEN.expires_at.timestamp(),
        token_active=True,
        project_active=True,
        policy=Policy(),
        accounts=(
            Account(kind="project", id="project-1"),
            Account(kind="token", id="token-1", max_requests=5),
        ),
        token_hash=tokens.hash_token(SECRET),
    )
    assert "sk-upstream" not in repr(principal)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        SECRET,
        f"Basic {SECRET}",
        f"Bearer {SECRET}x",
        f"Bearer {SECRET[:-1]}",
        f"Bearer {SECRET},Bearer {SECRET}",
        "Bearer sk-" + "é" * 22,
        f"Bearer\t{SECRET}",
        f"Bearer {SECRET} {SECRET}",
    ],
)
def test_what_is_no_access_token_is_refused_without_a_query(authorization: str | None) -> None:
    store = Store()
    error = check(store, authorization)
    assert (error.status, error.code) == (401, "invalid_token")
    assert dict(error.headers)["WWW-Authenticate"].startswith("Bearer ")
    assert store.asked == []


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
def test_the_scheme_s_case_does_not_matter(scheme: str) -> None:
    assert make(Store()).authenticate(scheme + SECRET).token_id == "token-1"


def test_the_secret_itself_is_never_asked_for() -> None:
    store = Store()
    make(store).authenticate(f"Bearer {SECRET}")
    assert store.asked == [tokens.hash_token(SECRET)]


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"is_active": False}, 401, "token_inactive"),
        ({"expires_at": PAST}, 401, "token_expired"),
        ({"expires_at": START}, 401, "token_expired"),
        ({"project_active": False}, 403, "project_inactive"),
        # The first of several reasons is reported.
        ({"is_active": False, "revoked_at": PAST, "expires_at": PAST}, 401, "token_inactive"),
        # Deactivated by nobody but the housekeeping.
        ({"is_active": False, "expires_at": PAST, "project_active": False}, 401, "token_expired"),
        ({"expires_at": PAST, "project_active": False}, 401, "token_expired"),
    ],
)
def test_the_first_reason_that_holds(changes: dict[str, object], status: int, code: str) -> None:
    error = check(Store(**changes))
    assert (error.status, error.code) == (status, code)
    assert ("WWW-Authenticate" in dict(error.headers)) == (status == 401)


def test_an_unknown_token() -> None:
    store = Store()
    store.found.clear()
    assert check(store).code == "token_not_found"


def test_an_unknown_token_is_remembered_until_something_changes() -> None:
    store = Store()
    found = dict(store.found)
    store.found.clear()
    authenticator = make(store)
    for _ in range(5):
        refused(lambda: authenticator.authenticate(f"Bearer {SECRET}"))
    assert len(store.asked) == 1, "a flood of bad tokens is no flood of queries"
    store.found.update(found)  # minted a moment later, which is a change
    authenticator.forget({"token-1"})
    assert authenticator.authenticate(f"Bearer {SECRET}").token_id == "token-1"


def test_what_changed_is_asked_for_again() -> None:
    store = Store()
    authenticator = make(store)
    authenticator.authenticate(f"Bearer {SECRET}")
    authenticator.forget({"another-token", "another-project"})
    authenticator.authenticate(f"Bearer {SECRET}")
    assert len(store.asked) == 1
    for ids in ({"token-1"}, {"project-1"}, None):
        authenticator.forget(ids)
        authenticator.authenticate(f"Bearer {SECRET}")
    assert len(store.asked) == 4
    store.put(is_active=False)
    authenticator.forget({"token-1"})
    assert refused(lambda: authenticator.authenticate(f"Bearer {SECRET}")).code == "token_inactive"


def test_a_store_that_is_away_raises_and_is_not_remembered() -> None:
    store = Store()
    found = dict(store.found)
    store.found = {hashed: StoreError() for hashed in found}
    authenticator = make(store)
    error = refused(lambda: authenticator.authenticate(f"Bearer {SECRET}"))
    assert (error.status, error.code, bool(error.retry_after)) == (503, "store_unavailable", True)
    store.found = dict(found)
    assert authenticator.authenticate(f"Bearer {SECRET}")


def test_a_key_that_cannot_be_read_is_logged_once_and_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store()
    store.found = dict.fromkeys(store.found, CipherError("projects.upstream_key of 123: no key"))
    authenticator = make(store)
    for _ in range(3):
        error = refused(lambda: authenticator.authenticate(f"Bearer {SECRET}"))
        assert (error.status, error.code) == (503, "store_unavailable")
        assert "123" not in str(error), "what is stored where is for the log only"
        assert ("x-should-retry", "false") in error.headers
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "projects.upstream_key of 123" in caplog.text
    authenticator.forget(["project-1"])  # it was changed: if it is still wrong, that is news
    refused(lambda: authenticator.authenticate(f"Bearer {SECRET}"))
    assert len(caplog.records) == 2
    store.put()
    assert authenticator.authenticate(f"Bearer {SECRET}")


def test_a_warm_token_costs_no_query() -> None:
    store = Store()
    authenticator = make(store)
    first = authenticator.authenticate(f"Bearer {SECRET}")
    store.found = {hashed: StoreError() for hashed in store.found}
    assert all(authenticator.authenticate(f"Bearer {SECRET}") is first for _ in range(5))
    assert len(store.asked) == 1
    assert store.taken == store.counted == []


def test_expiry_is_judged_again_on_a_hit() -> None:
    store, clock = Store(), Clock(START.timestamp())
    authenticator = make(store, clock)
    authenticator.authenticate(f"Bearer {SECRET}")
    clock.now = TOKEN.expires_at.timestamp() - 0.001
    authenticator.authenticate(f"Bearer {SECRET}")
    clock.now += 0.001
    error = refused(lambda: authenticator.authenticate(f"Bearer {SECRET}"))
    assert (error.code, len(store.asked)) == ("token_expired", 1)
    store.put(expires_at=TOKEN.expires_at + timedelta(hours=1))  # prolonged, which is a change
    authenticator.forget({"token-1"})
    assert authenticator.authenticate(f"Bearer {SECRET}")


@pytest.mark.parametrize(("ttl", "size"), [(0, 10), (1000, 1)])
def test_a_cache_that_keeps_nothing_for_long_is_only_slower(ttl: float, size: int) -> None:
    store = Store()
    other = "sk-" + "b" * 22
    store.found[tokens.hash_token(other)] = store.found[tokens.hash_token(SECRET)]
    authenticator = make(store, ttl=ttl, size=size)
    for secret in (SECRET, other, SECRET):
        assert authenticator.authenticate(f"Bearer {secret}")
    assert len(store.asked) == 3


def test_no_limit_is_counted_off_the_path() -> None:
    store = Store()
    authenticator = make(store)
    authenticator.take_quota(authenticator.authenticate(f"Bearer {SECRET}"))
    assert (store.counted, store.taken) == (["token-1"], [])


def test_a_quota_is_looked_at_without_taking_anything() -> None:
    store = Store(max_requests=2)
    authenticator = make(store)
    principal = authenticator.authenticate(f"Bearer {SECRET}")
    store.permits = 1
    authenticator.check_quota(principal)
    store.permits = 0
    error = refused(lambda: authenticator.check_quota(principal))
    assert (error.status, error.code) == (429, "quota_exceeded")
    assert (store.taken, store.counted, store.put_back_) == ([], [], [])


def test_a_quota_is_taken_from_the_store_each_time() -> None:
    store = Store(max_requests=2)
    store.permits = 2
    authenticator = make(store)
    principal = authenticator.authenticate(f"Bearer {SECRET}")
    authenticator.take_quota(principal)
    authenticator.take_quota(principal)
    error = refused(lambda: authenticator.take_quota(principal))
    assert (error.status, error.code, error.retry_after) == (429, "quota_exceeded", None)
    assert error.headers == (("x-should-retry", "false"),)
    assert isinstance(error, ClientError)
    assert len(store.taken) == 3
    assert store.counted == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Bearer x", "x"), ("bEARER  x ", "x"), ("Bearer  ", None), ("Bearerx", None), (None, None)],
)
def test_bearer(value: str | None, expected: str | None) -> None:
    assert bearer(value) == expected


def test_limits_and_rules_of_both_are_in_the_principal() -> None:
    project = {"rate_limit_rpm": 60, "on_revoke": "finish"}
    rules = {"max_concurrent": 2, "max_tokens_total": 1000, "can_mint": True}
    principal = make(Store(project_policy=project, policy=rules)).authenticate(f"Bearer {SECRET}")
    assert principal.accounts == (
        Account(kind="project", id="project-1", rate_limit_rpm=60),
        Account(kind="token", id="token-1", max_concurrent=2, max_tokens_total=1000),
    )
    assert principal.policy.can_mint
    assert not principal.policy.cut_on_revoke


def test_rules_that_cannot_be_read_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    principal = make(Store(policy={"from_the_future": 1})).authenticate(f"Bearer {SECRET}")
    assert principal.policy.unreadable
    assert "token-1" in caplog.text
    assert "from_the_future" in caplog.text


PARENT = replace(TOKEN, id="parent", expires_at=START + timedelta(minutes=30), parent_id="root")
ROOT = replace(TOKEN, id="root", expires_at=START + timedelta(hours=2))


def family(**more: Any) -> Store:
    """A token with a parent and a grandparent."""
    return Store(**{"parent_id": "parent", "ancestors": (PARENT, ROOT), **more})


def test_a_child_is_charged_with_all_it_comes_from() -> None:
    principal = make(family()).authenticate(f"Bearer {SECRET}")
    assert [account.id for account in principal.accounts] == [
        *("project-1", "token-1", "parent", "root")
    ]
    assert principal.expires_at == PARENT.expires_at.timestamp()
    for one in ("project-1", "token-1", "parent", "root"):
        assert principal.concerned_by({one})


@pytest.mark.parametrize(
    ("ancestors", "code"),
    [
        ((PARENT, replace(ROOT, is_active=False)), "token_inactive"),
        ((replace(PARENT, is_active=False), ROOT), "token_inactive"),
        ((PARENT, replace(ROOT, expires_at=START)), "token_expired"),
        ((PARENT, replace(ROOT, is_active=False, expires_at=START)), "token_expired"),
        ((PARENT,), "token_inactive"),  # its parent is nowhere to be found
        ((), "token_inactive"),
    ],
)
def test_a_child_dies_with_what_it_comes_from(
    ancestors: tuple[AccessToken, ...], code: str
) -> None:
    assert check(family(ancestors=ancestors)).code == code


def test_a_child_is_bound_by_every_policy() -> None:
    allowing = {"can_mint": True}
    ancestors = (replace(PARENT, policy=allowing), replace(ROOT, policy=allowing))
    store = family(ancestors=ancestors, policy=allowing)
    assert make(store).authenticate(f"Bearer {SECRET}").policy.can_mint
    store = family(ancestors=(replace(PARENT, policy=allowing), ROOT), policy=allowing)
    assert not make(store).authenticate(f"Bearer {SECRET}").policy.can_mint


def test_permits_of_all_or_of_none() -> None:
    ancestors = (replace(PARENT, max_requests=5), replace(ROOT, max_requests=1))
    store = family(max_requests=3, ancestors=ancestors)
    store.limits = {"token-1": 3, "parent": 5, "root": 1}
    authenticator = make(store)
    principal = authenticator.authenticate(f"Bearer {SECRET}")
    authenticator.take_quota(principal)
    assert (store.taken, store.put_back_) == (["token-1", "parent", "root"], [])
    error = refused(lambda: authenticator.take_quota(principal))
    assert (error.code, "parent" in str(error)) == ("quota_exceeded", True)
    assert store.put_back_ == ["token-1", "parent"]
    assert store.counted == []


def test_a_store_that_fails_half_way_gets_back_what_was_taken() -> None:
    class Failing(Store):
        def take_permit(self, token_id: str) -> bool:
            if token_id == "root":
                raise StoreError
            return super().take_permit(token_id)

    ancestors = (PARENT, replace(ROOT, max_requests=1))
    store = Failing(parent_id="parent", ancestors=ancestors, max_requests=3)
    store.permits = 3
    authenticator = make(store)
    principal = authenticator.authenticate(f"Bearer {SECRET}")
    assert refused(lambda: authenticator.take_quota(principal)).code == "store_unavailable"
    assert (store.put_back_, store.counted) == (["token-1"], [])


def test_requests_are_counted_of_all() -> None:
    store = family(max_requests=3)
    store.permits = 3
    authenticator = make(store)
    authenticator.take_quota(authenticator.authenticate(f"Bearer {SECRET}"))
    assert (store.taken, store.counted) == (["token-1"], ["parent", "root"])


def test_a_cache_hit_is_counted_of_all_and_takes_no_quota() -> None:
    store = family(max_requests=3)
    authenticator = make(store)
    authenticator.count_hit(authenticator.authenticate(f"Bearer {SECRET}"))
    assert store.hits == ["token-1", "parent", "root"]
    assert (store.taken, store.counted, store.spent) == ([], [], {})


def test_llm_tokens_are_spent_by_all_and_the_smallest_total_ends_it() -> None:
    ancestors = (replace(PARENT, policy={"max_tokens_total": 30}, tokens_used=9), ROOT)
    store = family(ancestors=ancestors)
    authenticator = make(store)
    principal = authenticator.authenticate(f"Bearer {SECRET}")
    authenticator.take_quota(principal)
    authenticator.settle(principal, 20)
    authenticator.take_quota(principal)
    authenticator.settle(principal, 1)
    assert store.spent == {"token-1": 21, "parent": 21, "root": 21}
    error = refused(lambda: authenticator.take_quota(principal))
    assert (error.status, error.code, error.retry_after) == (429, "quota_exceeded", None)
    assert error.headers == (("x-should-retry", "false"),)
    assert "LLM tokens" in str(error)
    assert store.taken == []


def test_a_total_that_was_raised_counts() -> None:
    store = Store(policy={"max_tokens_total": 10}, tokens_used=10)
    authenticator = make(store)
    assert refused(
        lambda: authenticator.take_quota(authenticator.authenticate(f"Bearer {SECRET}"))
    ).code == ("quota_exceeded")
    store.put(policy={"max_tokens_total": 11}, tokens_used=10)
    authenticator.forget({"token-1"})
    authenticator.take_quota(authenticator.authenticate(f"Bearer {SECRET}"))


def test_nothing_is_cut_by_a_total_that_may_have_changed() -> None:
    store = Store(policy={"max_tokens_total": 10}, project_policy={"cut_in_flight": True})
    spent: list[str] = []
    budgets = Budgets(store, process_holds(), lambda token_id: 0, spent.append)
    authenticator = Authenticator(
        *(store, store, store, budgets), cache_size=9, cache_ttl=9, clock=Clock(START.timestamp())
    )
    principal = authenticator.authenticate(f"Bearer {SECRET}")
    for _ in range(3):
        authenticator.take_quota(principal)
    authenticator.settle(principal, 9)
    authenticator.forget({"another"})
    authenticator.forget({"token-1"})
    authenticator.settle(principal, 1)
    assert spent == []
    authenticator.authenticate(f"Bearer {SECRET}")
    authenticator.settle(principal, 1)
    assert spent == [], "nothing is in flight any more"
    for _ in range(2):
        assert budgets.hold([("token-1", 100)], 1) is None
    authenticator.settle(principal, 1)
    assert spent == ["token-1"]


def test_looking_again_asks_the_store_and_judges_as_at_the_door() -> None:
    store, clock = Store(), Clock(START.timestamp())
    authenticator = make(store, clock)
    first = authenticator.authenticate(f"Bearer {SECRET}")
    again = authenticator.revalidate(first.token_hash)
    assert (again, len(store.asked)) == (first, 2)
    assert again.read_at > first.read_at
    for changes, code in (
        ({"is_active": False}, "token_inactive"),
        ({"expires_at": PAST}, "token_expired"),
        ({"project_active": False, "project_policy": {"on_revoke": "finish"}}, "project_inactive"),
    ):
        store.put(**changes)  # type: ignore[arg-type]
        error = refused(lambda: authenticator.revalidate(first.token_hash))
        assert isinstance(error, TokenRefused)
        assert error.code == code
        assert error.principal.policy.cut_on_revoke is (code != "project_inactive")
        assert error.principal.read_at > first.read_at
    store.found.clear()
    assert refused(lambda: authenticator.revalidate(first.token_hash)).code == "token_not_found"
    store.found[first.token_hash] = StoreError()
    assert isinstance(refused(lambda: authenticator.revalidate(first.token_hash)), StoreError)


class TestWhatOthersKnow:
    def known(self, grace: float = 100) -> KnownGrants:
        return KnownGrants(NodeFile(), grace=grace, clock=Clock(START.timestamp()))

    def authenticator(self, store: Store, known: KnownGrants, clock: Clock) -> Authenticator:
        return Authenticator(
            store,
            store,
            store,
            Budgets(store, process_holds(), lambda token_id: 0),
            cache_size=10,
            cache_ttl=1,
            stale_grace=100,
            clock=clock,
            known=known,
        )

    def test_a_token_another_worker_has_served_is_good_while_the_store_is_away(self) -> None:
        store, known, clock = Store(), self.known(), Clock(START.timestamp())
        known.seen(1, [])
        first = self.authenticator(store, known, clock)
        principal = first.authenticate(f"Bearer {SECRET}")
        store.found = dict.fromkeys(store.found, StoreError())
        second = self.authenticator(store, known, clock)
        assert second.authenticate(f"Bearer {SECRET}") == principal
        clock.now += 3601
        error = refused(lambda: second.authenticate(f"Bearer {SECRET}"))
        assert error.code == "token_expired", "its own expiry holds"

    def test_one_that_no_worker_has_served_is_not(self) -> None:
        store, known = Store(), self.known()
        known.seen(1, [])
        store.found = dict.fromkeys(store.found, StoreError())
        authenticator = self.authenticator(store, known, Clock(START.timestamp()))
        error = refused(lambda: authenticator.authenticate(f"Bearer {SECRET}"))
        assert error.code == "store_unavailable"


class NodeFile:
    """A file of known tokens, in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Found] = {}

    def find(self, token_hash: str) -> Found | None:
        return self.rows.get(token_hash)

    def confirmed(self) -> Confirmed | None:
        return None

    def update(
        self, learned: Sequence[Learned], outdated: Outdated, confirmed: Confirmed | None
    ) -> None:
        self.rows |= {
            each.token_hash: Found(each.grant, each.read_at) for each in learned if each.grant
        }

    def close(self) -> None:
        pass
