"""The principal: which changes concern it."""

from dataclasses import replace
from typing import Any

from proxy.auth.principal import Principal, principal_of
from proxy.policy.accounts import Account
from proxy.store.records import Grant
from tests.support.grants import PROJECT, TOKEN
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


def made(project: dict[str, Any], token: dict[str, Any], epoch: int = 0) -> Principal:
    parent = replace(TOKEN, id="parent-1", policy=token)
    child = replace(TOKEN, parent_id="parent-1")
    owner = replace(PROJECT, policy=project, cache_epoch=epoch)
    return principal_of(Grant(child, owner, "sk-upstream", (parent,)), "0" * 64, 0.0, 0.0)


def test_what_it_asks_of_the_cache_follows_from_all_documents() -> None:
    assert made({}, {}).caching is None
    assert made({"cache": "on"}, {"cache": "off"}).caching is None
    caching = made({"cache": "on", "cache_scope": "token"}, {"cache": "opt_in"}, epoch=4).caching
    assert caching is not None
    assert (caching.mode, caching.epoch) == ("opt_in", 4)
    assert (caching.project_id, caching.scope) == ("project-1", "project-1:token-1")
