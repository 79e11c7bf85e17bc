"""The models that a project may use, under the names that its clients write.

In this order: aliases, then each provider's models as `provider/model` and, where that leads to
this provider, under the bare name, then those of the project's own upstream. Every name that is
listed is routed as it says. An alias that is a glob has no name of its own; it is found by each
name that it matches.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy.providers.base import Target
from proxy.routing.access import RoutingAccess
from proxy.routing.catalog import Catalog
from proxy.routing.known_models import KnownModel, KnownModels
from proxy.routing.router import Router

#: Lists that are kept: one for each set of providers that some project may use.
_MAX_LISTS: Final = 64


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as the client sees it."""

    #: What the client writes as `model`.
    id: str
    #: Unix seconds. 0: not known.
    created: int
    #: The provider's name; of a project's own upstream, what that says.
    owned_by: str


class ModelList:
    """Lists for all projects."""

    def __init__(self, router: Router, known: KnownModels) -> None:
        self._router = router
        self._known = known
        self._shared: LRUCache[
            tuple[frozenset[str], bool, bool], tuple[Catalog, tuple[ListedModel, ...]]
        ] = LRUCache(_MAX_LISTS)
        known.changed = self._shared.clear

    def models(
        self, access: RoutingAccess, own_key: str | None, allowed: Callable[[str], bool]
    ) -> list[ListedModel]:
        """Return the models that `access` and `allowed` let pass.

        `own_key`: of the project. `allowed` is called with each name. Waits, but not for long, for
        upstreams that were never asked.
        """
        catalog = self._router.catalog
        own = (self._router.own_target(access), own_key) if own_key else None
        self._known.wait(
            (each for each in catalog.providers.values() if access.allows(each.name)), own
        )
        shared = self._of_providers(catalog, access, bool(own_key))
        found = [model for model in shared if allowed(model.id)]
        if own is not None:
            names = {model.id for model in shared}
            found += self._of_own(catalog, access, own, names, allowed)
        return found

    def find(
        self,
        access: RoutingAccess,
        own_key: str | None,
        allowed: Callable[[str], bool],
        name: str,
    ) -> ListedModel | None:
        """Return the one with this name, or None.

        Waits as :meth:`models`, unless `name` is an alias.
        """
        if not allowed(name):
            return None
        catalog = self._router.catalog
        if (alias := _alias(catalog, access, name)) is not None:
            return alias
        return next(
            (model for model in self.models(access, own_key, allowed) if model.id == name), None
        )

    def _of_providers(
        self, catalog: Catalog, access: RoutingAccess, has_own_key: bool
    ) -> tuple[ListedModel, ...]:
        place = access.providers, access.all_providers, has_own_key
        kept = self._shared.get(place)
        if kept is not None and kept[0] is catalog:
            return kept[1]
        made: dict[str, ListedModel] = {}
        for alias in catalog.aliases:
            if "*" not in alias and (listed := _alias(catalog, access, alias)) is not None:
                made[alias] = listed
        for model in self._below_providers(catalog, access, has_own_key):
            made.setdefault(model.id, model)
        self._shared[place] = catalog, tuple(made.values())
        return tuple(made.values())

    def _below_providers(
        self, catalog: Catalog, access: RoutingAccess, has_own_key: bool
    ) -> Iterator[ListedModel]:
        lists = {
            provider.name: self._known.of(provider)
            for provider in catalog.providers.values()
            if access.allows(provider.name)
        }
        listing = Counter(model.name for models in lists.values() for model in models)
        for owner, models in lists.items():
            bare = self._router.serves_bare(access, owner, has_own_key=has_own_key)
            for model in models:
                full = f"{owner}/{model.name}"
                if full not in catalog.aliases:
                    yield ListedModel(full, model.created, owner)
                if bare and listing[model.name] == 1 and not _claimed(catalog, access, model):
                    yield ListedModel(model.name, model.created, owner)

    def _of_own(
        self,
        catalog: Catalog,
        access: RoutingAccess,
        own: tuple[Target, str],
        names: set[str],
        allowed: Callable[[str], bool],
    ) -> Iterator[ListedModel]:
        for model in self._known.of_own(*own):
            if model.name in names or _claimed(catalog, access, model) or not allowed(model.name):
                continue
            yield ListedModel(model.name, model.created, model.owned_by or own[0].provider)


def _alias(catalog: Catalog, access: RoutingAccess, name: str) -> ListedModel | None:
    """The model that the alias `name` is, or that a glob which matches it makes of it."""
    if name not in catalog.aliases and _provider_named(catalog, access, name):
        return None
    alias = catalog.alias_of(name)
    for target in catalog.aliases.get(alias or "", ()):
        if access.allows(target.provider.name):
            return ListedModel(name, 0, target.provider.name)
    return None


def _claimed(catalog: Catalog, access: RoutingAccess, model: KnownModel) -> bool:
    """Whether the bare name means something else: an alias, or another provider's model."""
    name = model.name
    return catalog.alias_of(name) is not None or _provider_named(catalog, access, name)


def _provider_named(catalog: Catalog, access: RoutingAccess, name: str) -> bool:
    """Whether `name` begins with the name of a provider that the project may use."""
    prefix, slash, rest = name.partition("/")
    return bool(slash and rest) and prefix in catalog.providers and access.allows(prefix)
