"""Providers, their keys and their mappings, as they are stored or written in a configuration file.

The dictionaries in records are for reading and never changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

#: Where a record stands: in the database, or in the configuration file, which the API cannot edit.
Source = Literal["api", "file"]

PROVIDER_TYPES: Final = ("openai", "azure", "anthropic", "gemini", "ollama", "custom")

#: The kind of revision under which every change of these records is announced to the workers.
ROUTING_REVISION: Final = "routing"


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A service with models. Times are aware, in UTC."""

    id: str
    #: Unique, without `/`. Responses, labels and `provider/model` use it.
    name: str
    #: One of :data:`PROVIDER_TYPES`.
    provider_type: str
    base_url: str
    #: As the management API accepted it, see :mod:`proxy.providers.config`.
    config: dict[str, Any]
    is_active: bool
    is_default: bool
    created_at: datetime
    updated_at: datetime
    source: Source = "api"
    #: Fields of a project's policy that hold for requests to this provider, as they are stored.
    #: Only the file's `apis` set them.
    policy: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProviderKeyRecord:
    """One upstream key of a provider, without its secret."""

    id: str
    provider_id: str
    name: str
    #: The mask stored beside the ciphertext, as a project's.
    mask: str
    #: 0: used only while no other key is left.
    weight: int
    #: Globs of the upstream's model names. Empty: all models.
    models: tuple[str, ...]
    is_active: bool
    created_at: datetime
    updated_at: datetime
    source: Source = "api"


@dataclass(frozen=True, slots=True)
class ProviderKeySecret:
    """A provider key with its secret. It lives in memory only."""

    record: ProviderKeyRecord
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MappingRecord:
    """One target of an alias: requests for `alias_name` may go to this provider's model."""

    id: str
    #: A name, or a glob such as `claude-*`.
    alias_name: str
    provider_id: str
    provider_model_name: str
    #: Targets of an alias are tried in this order; equal ones are chosen by `weight`.
    order_index: int
    weight: int
    #: Whether the alias serves requests whose model nothing else names.
    is_default: bool
    #: See :class:`proxy.providers.config.MappingConfig`.
    config: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    source: Source = "api"


@dataclass(frozen=True, slots=True)
class RoutingRecords:
    """All records of one place at one moment, active or not. It lives in memory only."""

    providers: tuple[ProviderRecord, ...] = ()
    keys: tuple[ProviderKeySecret, ...] = ()
    #: By alias, then in order.
    mappings: tuple[MappingRecord, ...] = ()
    #: The ids of the keys that are left out, since they cannot be decrypted.
    unreadable_keys: tuple[str, ...] = ()
