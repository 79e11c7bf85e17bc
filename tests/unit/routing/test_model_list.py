"""The list of models of a project: in order, nothing that it may not use, and each name leads
where the list says."""

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ClientError
from proxy.policy.models import Models
from proxy.providers.base import Target
from proxy.routing.access import RoutingAccess
from proxy.routing.catalog import Catalog
from proxy.routing.known_models import KnownModel, KnownModels
from proxy.routing.model_list import ListedModel, ModelList
from proxy.routing.router import Router
from tests.support.routing_records import catalog, key, mapping, provider

OWN = Target.from_url("https://own.example")
ALL = RoutingAccess(all_providers=True)


class Own(KnownModels):
    """Declared models, and an upstream of a project's own."""

    def __init__(self) -> None:
        super().__init__({}, SimpleNamespace(), lambda: 0.0)  # type: ignore[arg-type]

    def wait(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is asked."""

    def of_own(self, target: Target, upstream_key: str) -> tuple[KnownModel, ...]:
        return tuple(map(KnownModel, ("own-model", "smart", "shared", "a/x", "claude-1")))


def everything(name: str) -> bool:
    return True


class Lists:
    def __init__(self, made: Catalog) -> None:
        self.known = Own()
        self.router = Router(OWN, lambda: 0.5, made)
        self.router.sole_provider = self.known.sole_provider
        self.list = ModelList(self.router, self.known)

    def ids(
        self,
        access: RoutingAccess = ALL,
        own_key: str | None = None,
        allowed: Callable[[str], bool] = everything,
    ) -> list[str]:
        return [model.id for model in self.list.models(access, own_key, allowed)]


def house(*more: Any, default: str | None = None) -> Lists:
    return Lists(
        catalog(
            provider("a", models=["a-1", "shared", "claude-2"]),
            provider("b", models=["b-1", "shared", "org/model"]),
            key("a", "one"),
            key("b", "two"),
            mapping("smart", "b/b-1"),
            mapping("claude-*", "a/claude-2"),
            *more,
            default=default,
        )
    )


def test_aliases_first_then_providers_full_and_bare_where_unique() -> None:
    assert house().ids() == [
        "smart",
        "a/a-1",
        "a-1",
        "a/shared",
        "a/claude-2",
        "b/b-1",
        "b-1",
        "b/shared",
        "b/org/model",
        "org/model",
    ]


def test_who_owns_them() -> None:
    listed = house().list
    assert listed.find(ALL, None, everything, "smart") == ListedModel("smart", 0, "b")
    assert listed.find(ALL, None, everything, "a/shared") == ListedModel("a/shared", 0, "a")
    assert listed.find(ALL, None, everything, "b-1") == ListedModel("b-1", 0, "b")
    assert listed.find(ALL, "sk", everything, "own-model") == ListedModel("own-model", 0, "default")


def test_what_is_not_found() -> None:
    listed = house().list
    for name in ("shared", "nothing", "a/nothing", "c/a-1", "a", ""):
        assert listed.find(ALL, None, everything, name) is None, name
    only_a = RoutingAccess(providers=frozenset({"a"}))
    for name in ("smart", "b/b-1", "b-1"):
        assert listed.find(only_a, None, everything, name) is None, name


def test_a_name_that_a_glob_matches_has_an_object_of_its_own() -> None:
    found = house().list.find(ALL, None, everything, "claude-next")
    assert found == ListedModel("claude-next", 0, "a")


def test_a_default_provider_owns_the_bare_names() -> None:
    ids = house(default="a").ids()
    assert "a-1" in ids
    assert "b-1" not in ids
    assert "b/b-1" in ids


def test_an_own_key_owns_the_bare_names() -> None:
    assert house().ids(own_key="sk") == [
        "smart",
        "a/a-1",
        "a/shared",
        "a/claude-2",
        "b/b-1",
        "b/shared",
        "b/org/model",
        "own-model",
        "shared",
    ]


def test_a_list_follows_its_catalog() -> None:
    lists = house()
    assert "c/c-1" not in lists.ids()
    lists.router.catalog = catalog(provider("c", models=["c-1"]), key("c", "one"))
    assert lists.ids() == ["c/c-1", "c-1"]


def test_a_list_follows_what_is_known() -> None:
    lists = house()
    lists.ids()
    assert len(lists.list._shared) == 1
    lists.known.changed()
    assert len(lists.list._shared) == 0


NAMES = st.sampled_from(["a", "b", "a-1", "b-1", "shared", "smart", "a/a-1", "b/x", "org/x", "z*"])
CATALOGS = st.builds(
    lambda lists, aliases, default, marked: catalog(
        *(provider(name, models=[*models]) for name, models in lists.items() if models),
        *(key(name, f"key-{name}") for name, models in lists.items() if models),
        *(
            mapping(alias, f"{target}/m", is_default=alias == marked)
            for alias, target in aliases.items()
            if lists.get(target)
        ),
        default=default,
    ),
    st.dictionaries(st.sampled_from(["a", "b", "org"]), st.sets(NAMES, max_size=4)),
    st.dictionaries(NAMES, st.sampled_from(["a", "b", "org"]), max_size=3),
    st.sampled_from([None, "a", "b", "gone"]),
    st.sampled_from([None, "smart", "a-1"]),
)
PATTERNS = st.sampled_from(["*", "a*", "smart", "a/*", "*-1", "b/x"])


@given(
    CATALOGS,
    st.frozensets(st.sampled_from(["a", "b", "org"]), min_size=1),
    st.booleans(),
    st.lists(PATTERNS, min_size=1, max_size=2),
)
def test_nothing_is_listed_that_the_project_may_not_use(
    made: Catalog, providers: frozenset[str], has_own_key: bool, patterns: list[str]
) -> None:
    lists = Lists(made)
    access = RoutingAccess(providers=providers)
    rule = Models(patterns)
    own_key = "sk" if has_own_key else None
    listed = lists.list.models(access, own_key, rule.allow)
    ids = [model.id for model in listed]
    assert len(ids) == len(set(ids))
    for model in listed:
        rule.check(model.id)
        assert "*" not in model.id
        route = lists.router.route(access, model.id, has_own_key=has_own_key)
        served_by = {
            "default" if each.provider is None else each.provider.name for each in route.targets
        }
        assert served_by <= providers | {"default"}
        assert model.owned_by in served_by
        assert lists.list.find(access, own_key, rule.allow, model.id) == model


@given(CATALOGS, NAMES)
def test_what_is_found_is_served(made: Catalog, name: str) -> None:
    lists = Lists(made)
    found = lists.list.find(ALL, None, everything, name)
    if found is None:
        return
    with contextlib.suppress(ClientError):
        assert lists.router.route(ALL, name, has_own_key=False).targets
        return
    raise AssertionError(f"{name} is found, and not served")
