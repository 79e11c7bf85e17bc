"""Names to targets: the model that a client wrote → the ordered targets that may serve it.

The order of rules, the first that fits wins:

1. an alias of this exact name
2. `provider/model`, where the part before the first `/` is a provider that the project may use
3. an alias with `*` that matches, the longest first
4. the project's own key
5. the alias that is marked as the default
6. the default provider
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from proxy.core.errors import ClientError
from proxy.providers.base import NO_FACTS, ModelFacts, Target
from proxy.providers.config import MappingConfig, RouteOptions
from proxy.routing.access import RoutingAccess
from proxy.routing.catalog import AliasTarget, Catalog, CatalogProvider

_NO_OPTIONS: Final = RouteOptions()


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """A target, whose keys it is called with, and how its mapping narrows the routing."""

    target: Target
    #: None: the project's own key.
    provider: CatalogProvider | None = None
    options: RouteOptions = _NO_OPTIONS


@dataclass(frozen=True, slots=True)
class Route:
    """Where one request may go, in order."""

    targets: tuple[RouteTarget, ...]
    #: The label of the route in metrics: the alias, or the provider's name.
    alias: str = ""
    #: Whether the upstream keeps state for the request, so that the same key must serve it and no
    #: other target may.
    pinned: bool = False
    access: RoutingAccess = field(default_factory=RoutingAccess)


class Router:
    """Routes requests by a catalog, which may be replaced at any time."""

    def __init__(
        self,
        default_target: Target,
        random: Callable[[], float],
        catalog: Catalog | None = None,
        wait: Callable[[], None] = lambda: None,
        *,
        private_upstreams: bool = False,
    ) -> None:
        """`default_target` is the upstream of projects with a key of their own.

        `wait` is called for a request that comes before the first catalog. It waits for that one,
        or raises. `private_upstreams`: whether the upstream of a project may have any address.
        """
        self._private_upstreams = private_upstreams
        self._default_target = default_target
        self._random = random
        self._wait = wait
        self._catalog = catalog
        #: Returns the only provider of a project that lists a model of this name. It is asked for
        #: names that no rule knows.
        self.sole_provider: Callable[[Catalog, RoutingAccess, str], CatalogProvider | None] = (
            lambda *_: None
        )
        #: Returns what is known of a provider's model.
        self.facts: Callable[[CatalogProvider, str], ModelFacts] = lambda *_: NO_FACTS

    @property
    def catalog(self) -> Catalog:
        if self._catalog is None:
            self._wait()
        return self._catalog or Catalog()

    @catalog.setter
    def catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def own_target(self, access: RoutingAccess) -> Target:
        """Return the upstream of the project's own key."""
        if access.own is None:
            return self._default_target
        return access.own.anywhere() if self._private_upstreams else access.own

    def serves_bare(self, access: RoutingAccess, provider: str, *, has_own_key: bool) -> bool:
        """Return whether names that are no alias, and that only this provider lists, go to it."""
        if has_own_key:
            return False
        alias = self.catalog.default_alias
        if alias is not None and any(
            access.allows(each.provider.name) for each in self.catalog.aliases[alias]
        ):
            return False
        default = self._default_provider(access)
        return default is None or default.name == provider

    def own_route(self, access: RoutingAccess) -> Route:
        """Return the route of a project that uses only its own key."""
        return Route((RouteTarget(self.own_target(access)),), access=access)

    def route(
        self,
        access: RoutingAccess,
        model: str | None,
        *,
        has_own_key: bool,
        pinned: bool = False,
        same_model: bool = False,
    ) -> Route:
        """Return the targets for the `model` that the client wrote; None: it names none.

        `pinned`: see :attr:`Route.pinned`. `same_model`: only targets with the model of the first
        one, since responses of different models do not fit together (embeddings).

        Raises ClientError ``model_not_found`` when the project may use no target for that name.
        """
        catalog = self.catalog
        if pinned:
            return self._pinned(access, model, has_own_key=has_own_key)
        if model:
            if model in catalog.aliases:
                return self._aliased(access, model, model, same_model)
            prefix, slash, rest = model.partition("/")
            if slash and rest and access.allows(prefix):
                provider = catalog.providers.get(prefix)
                if provider is not None:
                    target = RouteTarget(self._target(provider, rest), provider)
                    return Route((target,), provider.name, access=access)
            alias = catalog.alias_of(model)
            if alias is not None:
                return self._aliased(access, alias, model, same_model)
        if has_own_key:
            return self.own_route(access)
        if model is not None and catalog.default_alias is not None:
            targets = self._targets(access, catalog.default_alias, model or "", same_model)
            if targets:
                return Route(targets, catalog.default_alias, access=access)
        provider = self._default_provider(access)
        if provider is None and model:
            provider = self.sole_provider(catalog, access, model)
        if provider is None:
            raise _not_found(model)
        # The name goes on as it is: the provider knows its own models.
        target = RouteTarget(self._target(provider, model or None), provider)
        return Route((target,), provider.name, access=access)

    def _target(
        self, provider: CatalogProvider, model: str | None, edits: MappingConfig | None = None
    ) -> Target:
        facts = self.facts(provider, model) if model else NO_FACTS
        return provider.target(model, edits, facts)

    def _aliased(self, access: RoutingAccess, alias: str, name: str, same_model: bool) -> Route:
        targets = self._targets(access, alias, name, same_model)
        if not targets:
            raise _not_found(name)
        return Route(targets, alias, access=access)

    def _targets(
        self, access: RoutingAccess, alias: str, name: str, same_model: bool
    ) -> tuple[RouteTarget, ...]:
        allowed = [
            each for each in self.catalog.aliases[alias] if access.allows(each.provider.name)
        ]
        chosen = []
        for each in self._ordered(allowed):
            model = each.model_for(alias, name)
            chosen.append(
                RouteTarget(
                    self._target(each.provider, model, each.config),
                    each.provider,
                    each.config.routing,
                )
            )
        if same_model and chosen:
            chosen = [each for each in chosen if each.target.model == chosen[0].target.model]
        return tuple(chosen)

    def _ordered(self, targets: Iterable[AliasTarget]) -> list[AliasTarget]:
        """By index; equal ones in a random order in which weight counts, and a weight of 0 last.

        The first of them is drawn with a chance in proportion to its weight, then the second from
        the rest (Efraimidis and Spirakis, 2006).
        """

        def place(target: AliasTarget) -> tuple[int, float]:
            if not target.weight:
                return target.order_index, 1.0
            return target.order_index, -(max(self._random(), 1e-12) ** (1.0 / target.weight))

        return sorted(targets, key=place)

    def _pinned(self, access: RoutingAccess, model: str | None, *, has_own_key: bool) -> Route:
        if has_own_key:
            return Route((RouteTarget(self.own_target(access)),), "", True, access)
        provider = self._default_provider(access)
        if provider is None:
            raise _not_found(model)
        return Route(
            (RouteTarget(self._pinned_target(provider, model), provider),),
            provider.name,
            True,
            access,
        )

    def _pinned_target(self, provider: CatalogProvider, model: str | None) -> Target:
        """The provider's own name of the model, where the client wrote an alias that it serves."""
        if model:
            alias = self.catalog.alias_of(model)
            for each in self.catalog.aliases.get(alias or "", ()):
                if each.provider.record.id == provider.record.id:
                    return self._target(provider, each.model_for(alias or "", model), each.config)
            if model.startswith(f"{provider.name}/"):
                return self._target(provider, model.removeprefix(f"{provider.name}/"))
        return self._target(provider, model or None)

    def _default_provider(self, access: RoutingAccess) -> CatalogProvider | None:
        """The default provider, if the project may use it."""
        name = self.catalog.default_provider
        if name is None or not access.allows(name):
            return None
        return self.catalog.providers.get(name)


def _not_found(model: str | None) -> ClientError:
    if not model:
        return ClientError(
            "This project has no upstream for requests that name no model: it needs a key of its "
            "own, or a default provider that it may use.",
            code="model_not_found",
            param=None if model is None else "model",
        )
    return ClientError(
        f"The model {model[:100]!r} does not exist, or this project may not use it: write a "
        "model of `GET /v1/models`, such as `provider/model`.",
        code="model_not_found",
        param="model",
    )
