"""Names to targets."""

import contextlib
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.providers.base import NO_FACTS, ModelFacts, Target
from proxy.routing.access import RoutingAccess, routing_access
from proxy.routing.catalog import Catalog, CatalogProvider
from proxy.routing.router import Route, Router
from tests.support.routing_records import catalog, key, mapping, provider

OWN = Target.from_url("https://own.example")
ALL = RoutingAccess(all_providers=True)


def router(given: Catalog, random: float = 0.5) -> Router:
    return Router(OWN, lambda: random, given)


def names(route: Route) -> list[str]:
    """Each target as `provider/model`; `own` is the project's own key."""
    return [
        "own" if each.provider is None else f"{each.target.provider}/{each.target.model or ''}"
        for each in route.targets
    ]


HOUSE = catalog(
    provider("a", is_default=True),
    provider("b"),
    provider("meta-llama"),
    key("a", "one"),
    mapping("gpt", "a/gpt-4"),
    mapping("gpt", "b/gpt-4-b", 1),
    mapping("claude-*", "b/claude-any"),
    mapping("claude-opus-*", "a/opus"),
    mapping("b/alias", "a/of-b"),
    mapping("mini-*", "a/small-*-x"),
)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt", ["a/gpt-4", "b/gpt-4-b"]),
        ("GPT", ["a/GPT"]),
        ("a/any/model", ["a/any/model"]),
        ("b/alias", ["a/of-b"]),
        ("meta-llama/Llama-3", ["meta-llama/Llama-3"]),
        ("claude-3", ["b/claude-any"]),
        ("claude-opus-4", ["a/opus"]),
        ("nobody/model", ["a/nobody/model"]),
        ("a/", ["a/a/"]),
        ("mini-7", ["a/small-7-x"]),
        ("unknown", ["a/unknown"]),
        ("", ["a/"]),
        (None, ["a/"]),
    ],
)
def test_the_first_rule_that_fits_wins(model: str | None, expected: list[str]) -> None:
    assert names(router(HOUSE).route(ALL, model, has_own_key=False)) == expected


def test_the_own_key_comes_before_the_default() -> None:
    found = router(HOUSE)
    assert names(found.route(ALL, "unknown", has_own_key=True)) == ["own"]
    assert names(found.route(ALL, None, has_own_key=True)) == ["own"]
    assert names(found.route(ALL, "gpt", has_own_key=True)) == ["a/gpt-4", "b/gpt-4-b"]


def test_the_own_key_may_have_an_upstream_of_its_own() -> None:
    access = routing_access({"base_url": "https://mine.example/v1"})
    assert access is not None
    route = router(HOUSE).own_route(access)
    assert route.targets[0].target.origin == "public+https://mine.example"
    anywhere = Router(OWN, lambda: 0.5, private_upstreams=True).own_route(access)
    assert anywhere.targets[0].target.origin == "https://mine.example"
    assert not access.shared


def test_a_default_alias_comes_before_the_default_provider() -> None:
    house = catalog(
        provider("a", is_default=True), provider("b"), mapping("any", "b/model", is_default=True)
    )
    assert names(router(house).route(ALL, "unknown", has_own_key=False)) == ["b/model"]
    assert names(router(house).route(ALL, None, has_own_key=False)) == ["a/"]
    only_a = RoutingAccess(frozenset({"a"}))
    assert names(router(house).route(only_a, "unknown", has_own_key=False)) == ["a/unknown"]


def test_the_setting_names_the_default_provider() -> None:
    house = catalog(provider("a", is_default=True), provider("b"), default="b")
    assert names(router(house).route(ALL, "unknown", has_own_key=False)) == ["b/unknown"]


def test_targets_of_other_providers_are_skipped() -> None:
    only_b = RoutingAccess(frozenset({"b"}))
    found = router(HOUSE)
    assert names(found.route(only_b, "gpt", has_own_key=False)) == ["b/gpt-4-b"]
    for model in ("a/gpt-4", "claude-opus-4", "unknown"):
        with pytest.raises(ClientError) as caught:
            found.route(only_b, model, has_own_key=False)
        assert (caught.value.code, caught.value.status) == ("model_not_found", 404)


@pytest.mark.parametrize(("model", "param"), [(None, None), ("", "model")])
def test_a_request_without_a_model_hears_what_is_missing(
    model: str | None, param: str | None
) -> None:
    with pytest.raises(
        ClientError, match=r"name no model.*key of its own.*default provider"
    ) as caught:
        router(HOUSE).route(RoutingAccess(frozenset({"b"})), model, has_own_key=False)
    assert (caught.value.code, caught.value.param) == ("model_not_found", param)


def test_an_alias_without_targets_falls_to_no_other_rule() -> None:
    house = catalog(provider("a", is_default=True), provider("b", is_active=False))
    with_alias = catalog(
        provider("a", is_default=True), provider("b", is_active=False), mapping("x", "b/m")
    )
    assert names(router(house).route(ALL, "x", has_own_key=False)) == ["a/x"]
    with pytest.raises(ClientError, match="'x'"):
        router(with_alias).route(ALL, "x", has_own_key=True)


def test_equal_indices_are_chosen_by_weight_and_all_are_tried() -> None:
    house = catalog(
        provider("a"),
        provider("b"),
        provider("c"),
        provider("z"),
        mapping("m", "a/m", weight=3),
        mapping("m", "b/m", weight=1),
        mapping("m", "c/m", weight=0),
        mapping("m", "z/m", 1),
    )
    random = Random(7)
    found = Router(OWN, random.random, house)
    firsts: Counter[str] = Counter()
    for _ in range(4000):
        order = names(found.route(ALL, "m", has_own_key=False))
        assert order[2:] == ["c/m", "z/m"]
        firsts[order[0]] += 1
    assert 0.70 < firsts["a/m"] / 4000 < 0.80


def test_state_stays_where_it_is() -> None:
    found = router(HOUSE)
    own = found.route(ALL, "gpt", has_own_key=True, pinned=True)
    assert names(own) == ["own"]
    shared = found.route(ALL, "gpt", has_own_key=False, pinned=True)
    assert names(shared) == ["a/gpt-4"]
    assert own.pinned
    assert shared.pinned
    assert names(found.route(ALL, "a/x", has_own_key=False, pinned=True)) == ["a/x"]
    assert names(found.route(ALL, None, has_own_key=False, pinned=True)) == ["a/"]


def test_embeddings_fall_back_to_the_same_model_alone() -> None:
    house = catalog(
        provider("a"),
        provider("b"),
        mapping("e", "a/small"),
        mapping("e", "b/large", 1),
        mapping("e", "b/small", 2),
    )
    route = router(house).route(ALL, "e", has_own_key=False, same_model=True)
    assert names(route) == ["a/small", "b/small"]


def test_without_a_catalog_the_router_waits_for_one() -> None:
    found = Router(OWN, lambda: 0.5)

    def arrive() -> None:
        found.catalog = HOUSE

    found = Router(OWN, lambda: 0.5, wait=arrive)
    assert names(found.route(ALL, "gpt", has_own_key=False))[0] == "a/gpt-4"


@given(st.text(max_size=30), st.frozensets(st.sampled_from(["a", "b", "meta-llama"])))
def test_no_name_reaches_a_provider_that_the_project_may_not_use(
    model: str, allowed: frozenset[str]
) -> None:
    access = RoutingAccess(allowed)
    for name in (model, f"a/{model}", f"claude-{model}"):
        with contextlib.suppress(ClientError):
            route = router(HOUSE).route(access, name, has_own_key=False)
            assert {each.target.provider for each in route.targets} <= allowed


def test_configured_models_are_those_of_mappings_and_declared_lists() -> None:
    made = catalog(
        provider("a", models=["declared"]),
        provider("b"),
        mapping("m", "a/ma"),
        mapping("m", "b/mb", 1),
        mapping("gpt-*", "a/gpt-*"),
        mapping("claude-*", "b/fixed"),
    )
    assert made.configured_models() == {"a": {"declared", "ma"}, "b": {"mb", "fixed"}}


@pytest.mark.parametrize(
    ("model", "pinned", "expected"),
    [
        ("gpt", False, ["a gpt-4", "b gpt-4-b"]),
        ("b/x", False, ["b x"]),
        ("claude-3", False, ["b claude-any"]),
        ("anything", False, ["a anything"]),
        ("gpt", True, ["a gpt-4"]),
        ("a/x", True, ["a x"]),
        ("anything", True, ["a anything"]),
        (None, True, [None]),
    ],
)
def test_a_target_has_what_is_known_of_its_model(
    model: str | None, pinned: bool, expected: list[str | None]
) -> None:
    known: dict[str | None, ModelFacts] = {None: NO_FACTS}

    def facts(provider: CatalogProvider, name: str) -> ModelFacts:
        return known.setdefault(f"{provider.name} {name}", ModelFacts(len(known)))

    made = router(HOUSE)
    made.facts = facts
    route = made.route(ALL, model, has_own_key=False, pinned=pinned)
    assert [each.target.facts for each in route.targets] == [known[name] for name in expected]


def test_nothing_is_asked_of_the_models_of_an_own_key() -> None:
    made = router(HOUSE)
    made.facts = lambda *_: pytest.fail("a fact is asked for")
    assert made.route(ALL, "unknown", has_own_key=True).targets[0].target.facts is NO_FACTS
    assert made.own_route(ALL).targets[0].target.facts is NO_FACTS
