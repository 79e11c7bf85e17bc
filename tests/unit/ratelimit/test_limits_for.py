"""The buckets of a request: by account, by default, by address."""

import pytest

from proxy.policy.accounts import Account
from proxy.ratelimit.limiter import Bucket, Charge
from proxy.ratelimit.request_limiter import Rates, address_charge, limits_for

PROJECT = Account(kind="project", id="p", rate_limit_tpm=1000, max_concurrent=9)
TOKEN = Account(kind="token", id="t", rate_limit_rpm=5, rate_limit_tpm=100, max_concurrent=2)
PARENT = Account(kind="token", id="parent")


def test_every_account_has_its_own_and_all_have_one_together() -> None:
    plan = limits_for(
        [PROJECT, TOKEN, PARENT], Rates(all_clients=1000, address=3, token=60, project=600)
    )
    assert plan.charges == (
        Charge(Bucket("token:t", 5), 1),
        Charge(Bucket("token:parent", 60), 1),
        Charge(Bucket("project:p", 600), 1),
        Charge(Bucket("all", 1000), 1),
        Charge(Bucket("token-tpm:t", 100), 0),
        Charge(Bucket("project-tpm:p", 1000), 0),
    )
    assert plan.limits == ("token", "parent", "project", "global", "token", "project")
    assert plan.requests == 4
    assert plan.concurrency == (("token:t", 2), ("project:p", 9))
    assert plan.concurrency_owners == ("token", "project")


def test_a_parent_s_limits_are_named_as_a_parent_s() -> None:
    parent = Account(kind="token", id="parent", rate_limit_tpm=50, max_concurrent=1)
    plan = limits_for([PROJECT, TOKEN, parent], Rates())
    assert plan.limits == ("token", "token", "parent", "project")
    assert plan.concurrency_owners == ("token", "parent", "project")


def test_without_limits_there_is_nothing_to_ask() -> None:
    plan = limits_for([Account(kind="project", id="p"), PARENT], Rates(address=3))
    assert (plan.charges, plan.requests, plan.concurrency) == ((), 0, ())


def test_an_account_s_own_limit_may_be_above_the_default_and_0_is_none() -> None:
    more = Account(kind="token", id="t", rate_limit_rpm=100)
    none = Account(kind="token", id="u", rate_limit_rpm=0)
    assert limits_for([more, none], Rates(token=10)).charges == (Charge(Bucket("token:t", 100), 1),)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4711", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::1]:4711", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unknown", "unknown"),
        ("not:an:address", "not:an:address"),
    ],
)
def test_one_customer_is_one_bucket(address: str, key: str) -> None:
    assert address_charge(address, 7) == (Charge(Bucket(f"ip:{key}", 7), 1),)


def test_neighbours_are_two() -> None:
    assert address_charge("2001:db8:1:2::1", 7) != address_charge("2001:db8:1:3::1", 7)
