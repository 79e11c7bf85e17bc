"""What a project asks of the response cache, compiled."""

from typing import Any

import pytest

from proxy.cache.access import CacheAccess, cache_access


def access(
    project: dict[str, Any], *tokens: dict[str, Any], token_id: str = "t", epoch: int = 0
) -> CacheAccess | None:
    return cache_access(project, tokens, project_id="p", token_id=token_id, epoch=epoch)


def asked(project: dict[str, Any], *tokens: dict[str, Any]) -> CacheAccess:
    found = access(project, *tokens)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "project",
    [
        {},
        {"cache": "off"},
        {"cache": None, "idempotency": "off", "on_disconnect": "drain"},
        {"cache_scope": "token"},
        {"coalesce": "on"},
        {"rate_limit_rpm": 1},
    ],
)
def test_a_project_that_asks_for_nothing_has_none(project: dict[str, Any]) -> None:
    assert access(project) is None
    assert access(project, {"cache": "on"}) is None, "a token cannot ask for more"


def test_what_is_asked_for() -> None:
    bare = asked({"cache": "on"})
    assert bare == CacheAccess(mode="on", scope="p", project_id="p")
    assert (bare.coalesce, bare.idempotency, bare.hold) == (False, False, False)
    project = {"cache": "opt_in", "coalesce": "on", "idempotency": "on", "on_disconnect": "hold"}
    full = access(project, epoch=7)
    assert full == CacheAccess(
        mode="opt_in",
        scope="p",
        project_id="p",
        epoch=7,
        coalesce=True,
        idempotency=True,
        hold=True,
    )


def test_idempotency_and_hold_need_no_cache() -> None:
    kept = asked({"idempotency": "on"})
    assert (kept.mode, kept.idempotency, kept.hold) == ("off", True, False)
    held = asked({"on_disconnect": "hold", "coalesce": "on"})
    assert (held.mode, held.hold, held.coalesce) == ("off", True, False)


def test_the_scope_is_the_project_or_one_token() -> None:
    assert asked({"cache": "on", "cache_scope": "project"}).scope == "p"
    mine = access({"cache": "on", "cache_scope": "token"}, token_id="t1")
    other = access({"cache": "on", "cache_scope": "token"}, token_id="t2")
    assert mine is not None
    assert other is not None
    assert (mine.scope, other.scope) == ("p:t1", "p:t2")


@pytest.mark.parametrize(
    ("project", "tokens", "mode"),
    [
        ("on", [None], "on"),
        ("on", ["on"], "on"),
        ("on", ["opt_in"], "opt_in"),
        ("opt_in", ["on"], "opt_in"),
        ("on", ["on", "opt_in"], "opt_in"),
        ("on", [None, "opt_in", None], "opt_in"),
    ],
)
def test_a_token_and_its_ancestors_only_narrow(
    project: str, tokens: list[str | None], mode: str
) -> None:
    documents = [{} if one is None else {"cache": one} for one in tokens]
    assert asked({"cache": project}, *documents).mode == mode


def test_a_token_may_do_without() -> None:
    assert access({"cache": "on"}, {"cache": "off"}) is None
    assert access({"cache": "on"}, {"cache": "on"}, {"cache": "off"}) is None
    kept = asked({"cache": "on", "coalesce": "on", "idempotency": "on"}, {"cache": "off"})
    assert (kept.mode, kept.coalesce, kept.idempotency) == ("off", False, True)


@pytest.mark.parametrize("odd", ["always", 1, ["on"], {}])
def test_a_word_of_another_version_stores_nothing(odd: Any) -> None:
    assert access({"cache": odd}) is None
    assert access({"cache": "on"}, {"cache": odd or [0]}) is None
