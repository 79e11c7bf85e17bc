"""Records of providers, keys and mappings, and catalogs of them, for tests of the routing."""

from datetime import UTC, datetime
from typing import Any

from proxy.providers.records import (
    MappingRecord,
    ProviderKeyRecord,
    ProviderKeySecret,
    ProviderRecord,
)
from proxy.routing.catalog import Catalog, compile_catalog
from proxy.routing.key_pool import KeyPool

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def provider(
    name: str,
    provider_type: str = "openai",
    *,
    base_url: str = "",
    is_active: bool = True,
    is_default: bool = False,
    **config: Any,
) -> ProviderRecord:
    """A provider whose id is `id-<name>`, at `https://<name>.example` unless it says otherwise."""
    url = base_url or f"https://{name}.example"
    return ProviderRecord(
        f"id-{name}", name, provider_type, url, config, is_active, is_default, NOW, NOW
    )


def key(
    provider_name: str,
    name: str,
    *,
    weight: int = 1,
    models: tuple[str, ...] = (),
    is_active: bool = True,
    value: str = "",
) -> ProviderKeySecret:
    """A key whose id is `<provider>/<name>` and whose value is `secret-<name>`."""
    record = ProviderKeyRecord(
        f"{provider_name}/{name}",
        f"id-{provider_name}",
        name,
        "sec...ret",
        weight,
        models,
        is_active,
        NOW,
        NOW,
    )
    return ProviderKeySecret(record, value or f"secret-{name}")


def mapping(
    alias: str,
    target: str,
    order_index: int = 0,
    *,
    weight: int = 1,
    is_default: bool = False,
    **config: Any,
) -> MappingRecord:
    """A target `provider/model` of an alias."""
    provider_name, _, model = target.partition("/")
    return MappingRecord(
        f"{alias} {target}",
        alias,
        f"id-{provider_name}",
        model,
        order_index,
        weight,
        is_default,
        config,
        NOW,
        NOW,
    )


def catalog(
    *records: ProviderRecord | ProviderKeySecret | MappingRecord, default: str | None = None
) -> Catalog:
    """A catalog of these records, all of which must be usable."""
    made, problems = compile_catalog(
        [record for record in records if isinstance(record, ProviderRecord)],
        [record for record in records if isinstance(record, ProviderKeySecret)],
        [record for record in records if isinstance(record, MappingRecord)],
        default,
    )
    assert not problems, problems
    return made


def available_in(pool: KeyPool, model: str | None) -> float | None:
    """Seconds until the first key for `model` may be taken; None: there is none."""
    wait = pool.waits(model)
    return None if wait is None else wait.seconds
