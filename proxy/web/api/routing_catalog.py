"""Providers, keys and mappings of the database and of the configuration file, as one list each.

Entries of the file are shown like the others, and changes of them are refused.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from proxy.core.errors import ClientError
from proxy.providers.records import (
    MappingRecord,
    ProviderKeyRecord,
    ProviderRecord,
    RoutingRecords,
)
from proxy.store.mappings import Mappings
from proxy.store.provider_keys import ProviderKeys
from proxy.store.providers import Providers
from proxy.web.api import fields

Entry = TypeVar("Entry", ProviderRecord, ProviderKeyRecord, MappingRecord)

#: The two names of the field with which keys and mappings say their provider: by id, by name.
PROVIDER_REFERENCE: Final = frozenset({"provider_id", "provider"})


class RoutingCatalog:
    """The repositories and the file. All methods raise StoreError as the repositories do."""

    def __init__(
        self,
        providers: Providers,
        keys: ProviderKeys,
        mappings: Mappings,
        file: Callable[[], RoutingRecords] = RoutingRecords,
    ) -> None:
        """``file`` returns what the configuration file holds now."""
        self.stored_providers = providers
        self.stored_keys = keys
        self.stored_mappings = mappings
        self.file = file

    def providers(self, limit: int | None = None, after: str | None = None) -> list[ProviderRecord]:
        """Returns at most ``limit`` providers by name: those after the one with the id ``after``.

        This and the other lists raise ClientError ``invalid_request`` when there is no ``after``.
        """
        added = self.file().providers
        if not added:
            return self.stored_providers.list(limit, after)
        found = [*self.stored_providers.list(), *added]
        return _part(sorted(found, key=lambda provider: provider.name), limit, after)

    def keys(
        self, provider_id: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[ProviderKeyRecord]:
        """Returns keys, or those of a provider, by name."""
        added = [
            key.record for key in self.file().keys if provider_id in (None, key.record.provider_id)
        ]
        if not added:
            return self.stored_keys.list(provider_id, limit, after)
        found = [*self.stored_keys.list(provider_id), *added]
        return _part(sorted(found, key=lambda key: (key.name, key.id)), limit, after)

    def mappings(
        self,
        alias: str | None = None,
        provider_id: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> list[MappingRecord]:
        """Returns mappings, or those of an alias or to a provider: by alias, then in order."""
        added = [each for each in self.file().mappings if alias in (None, each.alias_name)]
        if not added and provider_id is None:
            return self.stored_mappings.list(alias, limit, after)
        found = [
            each
            for each in [*self.stored_mappings.list(alias), *added]
            if provider_id in (None, each.provider_id)
        ]
        order = sorted(found, key=lambda each: (each.alias_name, each.order_index, each.id))
        return _part(order, limit, after)

    def provider(self, provider_id: str) -> ProviderRecord:
        """Raises ClientError ``not_found``."""
        return _in_file(self.file().providers, provider_id) or self.stored_providers.get(
            provider_id
        )

    def key(self, key_id: str) -> ProviderKeyRecord:
        """Raises ClientError ``not_found``."""
        return _in_file([key.record for key in self.file().keys], key_id) or self.stored_keys.get(
            key_id
        )

    def mapping(self, mapping_id: str) -> MappingRecord:
        """Raises ClientError ``not_found``."""
        return _in_file(self.file().mappings, mapping_id) or self.stored_mappings.get(mapping_id)

    def provider_names(self) -> dict[str, str]:
        """Returns the name of each provider by its id."""
        return {provider.id: provider.name for provider in self.providers()}

    def key_counts(self) -> Counter[str]:
        """Returns how many keys each provider has, by its id."""
        return Counter(key.provider_id for key in self.keys())

    def referenced(self, body: Mapping[str, Any]) -> str:
        """Returns the id of the provider that ``body`` names with `provider_id` or `provider`.

        Raises ClientError: ``invalid_request`` when it names none or two, ``not_found`` when there
        is no such provider.
        """
        given = {param: body[param] for param in PROVIDER_REFERENCE if body.get(param) is not None}
        if not given:
            raise ClientError("`provider_id` or `provider` is required.", param="provider_id")
        known = self.providers()
        found = {_referenced(known, param, value).id for param, value in given.items()}
        if len(found) > 1:
            raise ClientError(
                "`provider_id` and `provider` name two providers.", param="provider_id"
            )
        return found.pop()

    def refuse_file_entry(self, entry_id: str) -> None:
        """Raises ClientError ``conflict`` when the entry with this id stands in the file."""
        file = self.file()
        ids = {provider.id for provider in file.providers}
        ids |= {key.record.id for key in file.keys} | {mapping.id for mapping in file.mappings}
        if entry_id in ids:
            raise ClientError(
                "This stands in the configuration file: change it there.", code="conflict"
            )

    def refuse_file_name(self, name: str) -> None:
        """Raises ClientError ``conflict`` when the file has a provider with this name."""
        if any(provider.name == name for provider in self.file().providers):
            raise ClientError(
                f"The configuration file has a provider with the name {name!r}.",
                code="conflict",
                param="name",
            )

    def refuse_provider_of_file_mappings(self, provider_id: str) -> None:
        """Raises ClientError ``conflict`` when mappings of the file use this provider."""
        used = {each.alias_name for each in self.file().mappings if each.provider_id == provider_id}
        if used:
            raise ClientError(
                "Mappings of the configuration file use this provider: "
                f"{', '.join(f'`{alias}`' for alias in sorted(used))}. Change them there first.",
                code="conflict",
            )

    def refuse_file_alias(self, alias: str) -> None:
        """Raises ClientError ``conflict`` when the file has mappings of ``alias``."""
        if any(mapping.alias_name == alias for mapping in self.file().mappings):
            raise ClientError(
                f"The configuration file has mappings of the alias {alias!r}: change them there.",
                code="conflict",
                param="alias_name",
            )


def _part(entries: list[Entry], limit: int | None, after: str | None) -> list[Entry]:
    start = 0
    if after is not None:
        ids = [entry.id for entry in entries]
        if after not in ids:
            raise ClientError("There is no entry with the id in `after`.", param="after")
        start = ids.index(after) + 1
    return entries[start:][:limit]


def _in_file(entries: Sequence[Entry], entry_id: str) -> Entry | None:
    return next((entry for entry in entries if entry.id == entry_id), None)


def _referenced(providers: Sequence[ProviderRecord], param: str, value: Any) -> ProviderRecord:
    wanted = fields.text(value, param, fields.MAX_NAME_CHARS)
    for provider in providers:
        if wanted.lower() == provider.id if param == "provider_id" else wanted == provider.name:
            return provider
    raise ClientError(
        f"There is no provider with the {'id' if param == 'provider_id' else 'name'} {wanted!r}.",
        code="not_found",
        param=param,
    )
