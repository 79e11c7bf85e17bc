"""The principal: which changes concern it."""

from dataclasses import replace

from proxy.policy.accounts import Account
from tests.support.relay_factories import PRINCIPAL


def test_a_change_of_the_project_the_token_or_an_ancestor_concerns_it() -> None:
    ids = ("project-1", "token-1", "parent-1")
    kinds = ("project", "token", "token")
    accounts = tuple(Account(kind=kind, id=id_) for kind, id_ in zip(kinds, ids, strict=True))
    principal = replace(PRINCIPAL, accounts=accounts)
    assert all(principal.concerned_by({id_, "another"}) for id_ in ids)
    assert not principal.concerned_by({"another"})


def test_it_is_older_than_what_changed_after_it_was_read() -> None:
    principal = replace(PRINCIPAL, read_at=100.0)
    assert principal.older_than({"token-1": 100.5, "another": 3.0})
    assert principal.older_than({"project-1": 100.0})
    assert not principal.older_than({"token-1": 99.5, "another": 200.0})
    assert not replace(PRINCIPAL, read_at=0.0).older_than({})
