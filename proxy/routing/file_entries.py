"""Entries of the configuration file beside those of the database: which of them hold."""

from collections.abc import Iterable
from dataclasses import replace

from proxy.providers.records import RoutingRecords


def clashes(
    file: RoutingRecords, stored_names: Iterable[str], stored_aliases: Iterable[str]
) -> list[str]:
    """Return a problem for each name of a provider or alias that is in both places."""
    both = {each.name for each in file.providers}.intersection(stored_names)
    aliases = {each.alias_name for each in file.mappings}.intersection(stored_aliases)
    advice = "is in the file and in the database: rename or delete one of them"
    return [
        *(f"the provider {name!r} {advice}" for name in sorted(both)),
        *(f"the alias {alias!r} {advice}" for alias in sorted(aliases)),
    ]


def merged(file: RoutingRecords, stored: RoutingRecords) -> tuple[RoutingRecords, list[str]]:
    """Return both together, and the clashes.

    The file wins: a stored provider with a name of the file is left out with its keys, a stored
    mapping with an alias of the file too, and a default of the file is the only one.
    """
    problems = clashes(
        file,
        (each.name for each in stored.providers),
        (each.alias_name for each in stored.mappings),
    )
    names = {each.name for each in file.providers}
    aliases = {each.alias_name for each in file.mappings}
    one_provider = any(each.is_default for each in file.providers)
    one_alias = any(each.is_default for each in file.mappings)
    providers = [
        replace(each, is_default=each.is_default and not one_provider)
        for each in stored.providers
        if each.name not in names
    ]
    left_out = {each.id for each in stored.providers if each.name in names}
    mappings = [
        replace(each, is_default=each.is_default and not one_alias)
        for each in stored.mappings
        if each.alias_name not in aliases
    ]
    records = RoutingRecords(
        (*file.providers, *providers),
        (*file.keys, *(key for key in stored.keys if key.record.provider_id not in left_out)),
        (*file.mappings, *mappings),
        stored.unreadable_keys,
    )
    return records, problems
