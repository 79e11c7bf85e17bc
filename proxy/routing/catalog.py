"""All providers, keys and mappings at one moment, compiled for look-ups by name.

A catalog never changes. A worker replaces it as a whole when a record has changed, so a request
sees one state of the configuration from beginning to end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxy.core.errors import ClientError
from proxy.policy.globs import Globs
from proxy.policy.policy import Policy
from proxy.providers.base import NO_FACTS, ModelFacts, Target
from proxy.providers.config import MappingConfig, ProviderConfig, mapping_config, provider_config
from proxy.providers.records import MappingRecord, ProviderKeySecret, ProviderRecord
from proxy.providers.targets import target_for


@dataclass(frozen=True, slots=True)
class CatalogProvider:
    """A provider that may be used, and its active keys."""

    record: ProviderRecord
    config: ProviderConfig
    keys: tuple[ProviderKeySecret, ...]
    #: Rules for every request to it. None: it has none of its own.
    policy: Policy | None = None

    @property
    def name(self) -> str:
        return self.record.name

    def target(
        self,
        model: str | None,
        edits: MappingConfig | None = None,
        facts: ModelFacts = NO_FACTS,
    ) -> Target:
        """Return this provider's target for `model`, its own name of the model."""
        return target_for(self.record, model, edits or _NO_EDITS, self.config, facts)


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """One target of an alias."""

    provider: CatalogProvider
    model: str
    order_index: int
    weight: int
    config: MappingConfig

    def model_for(self, alias: str, name: str) -> str:
        """Return the provider's model for the `name` that the client wrote.

        A `*` in the mapping's model stands for what the first `*` of the alias has matched.
        """
        if "*" not in self.model or "*" not in alias:
            return self.model
        before, _, after = alias.partition("*")
        matched = name[len(before) : len(name) - len(after) if "*" not in after else None]
        return self.model.replace("*", matched, 1)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Use :func:`compile_catalog` to make one."""

    #: Active providers, by name.
    providers: Mapping[str, CatalogProvider] = field(default_factory=dict)
    #: Alias → its targets by `order_index`.
    aliases: Mapping[str, tuple[AliasTarget, ...]] = field(default_factory=dict)
    #: Aliases that are globs, the longest first.
    globs: tuple[tuple[str, Globs], ...] = ()
    #: The alias for requests whose model nothing else names.
    default_alias: str | None = None
    #: The name of the provider for everything else.
    default_provider: str | None = None

    def configured_models(self) -> dict[str, frozenset[str]]:
        """Return the models of each provider that mappings and declared lists name.

        Names with `*` are none: what they stand for is chosen by clients.
        """
        found = {name: set(each.config.models or ()) for name, each in self.providers.items()}
        for targets in self.aliases.values():
            for target in targets:
                found[target.provider.name].add(target.model)
        return {
            name: frozenset(model for model in models if "*" not in model)
            for name, models in found.items()
        }

    def alias_of(self, name: str) -> str | None:
        """Return the alias that `name` is, or the longest glob that matches it."""
        if name in self.aliases:
            return name
        for alias, globs in self.globs:
            if globs.match(name):
                return alias
        return None


_NO_EDITS: Final = MappingConfig()


def compile_catalog(
    providers: Iterable[ProviderRecord],
    keys: Iterable[ProviderKeySecret],
    mappings: Iterable[MappingRecord],
    default_provider: str | None = None,
) -> tuple[Catalog, list[str]]:
    """Return a catalog of what is active, and what was left out, with the reason of each.

    `default_provider` wins over a provider's `is_default`. A record that this version cannot read
    is left out: the others still serve.
    """
    problems: list[str] = []
    by_provider: dict[str, list[ProviderKeySecret]] = {}
    for key in keys:
        if key.record.is_active:
            by_provider.setdefault(key.record.provider_id, []).append(key)
    by_id: dict[str, CatalogProvider] = {}
    for record in providers:
        if not record.is_active:
            continue
        try:
            config = provider_config(record.config, record.provider_type)
            provider = CatalogProvider(
                record,
                config,
                tuple(by_provider.get(record.id, ())),
                Policy.compile(record.policy) if record.policy else None,
            )
            provider.target(None)
        except (ClientError, ValueError) as error:
            problems.append(f"provider {record.name!r} is not used: {error}")
            continue
        by_id[record.id] = provider
    aliases: dict[str, list[AliasTarget]] = {}
    default_alias = None
    for mapping in sorted(mappings, key=lambda each: (each.alias_name, each.order_index)):
        # An alias whose providers are all inactive still is one: it must not fall to another rule.
        targets = aliases.setdefault(mapping.alias_name, [])
        if mapping.is_default:
            default_alias = mapping.alias_name
        provider_of = by_id.get(mapping.provider_id)
        if provider_of is None:
            continue
        try:
            edits = mapping_config(mapping.config)
        except ClientError as error:
            problems.append(f"a target of alias {mapping.alias_name!r} is not used: {error}")
            continue
        targets.append(
            AliasTarget(
                provider_of,
                mapping.provider_model_name,
                mapping.order_index,
                mapping.weight,
                edits,
            )
        )
    globs = sorted((alias for alias in aliases if "*" in alias), key=lambda a: (-len(a), a))
    marked = next((p.name for p in by_id.values() if p.record.is_default), None)
    catalog = Catalog(
        providers={provider.name: provider for provider in by_id.values()},
        aliases={alias: tuple(targets) for alias, targets in aliases.items()},
        globs=tuple((alias, Globs([alias])) for alias in globs),
        default_alias=default_alias,
        default_provider=default_provider or marked,
    )
    return catalog, problems
