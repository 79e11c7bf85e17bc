"""Whom a change concerns."""

from dataclasses import replace

from proxy.policy.accounts import Account
from tests.web.relaying import PRINCIPAL


def test_a_change_of_the_project_the_token_or_an_ancestor_concerns_it() -> None:
    ids = ("project-1", "token-1", "parent-1")
    kinds = ("project", "token", "token")
    accounts = tuple(Account(kind=kind, id=id_) for kind, id_ in zip(kinds, ids, strict=True))
    principal = replace(PRINCIPAL, accounts=accounts)
    assert all(principal.concerned_by({id_, "another"}) for id_ in ids)
    assert not principal.concerned_by({"another"})
