"""The fields of providers, keys and mappings, as the management API and the configuration file
write them.

What is given is checked, and returned as the store takes it. Every refusal is a ClientError whose
``param`` names the field.
"""

from collections.abc import Mapping
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.providers.base_url import base_url, refuse_private
from proxy.providers.config import model_names, provider_config
from proxy.providers.readers import Read, count, json_object, line, truth, word, wrong
from proxy.providers.records import PROVIDER_TYPES

MAX_NAME_CHARS: Final = 100
MAX_MODEL_CHARS: Final = 256
MAX_WEIGHT: Final = 1_000_000
MAX_ORDER: Final = 1_000_000


def provider_name(param: str, value: Any) -> str:
    """Read the name of a provider, which also stands in headers and before the `/` of models."""
    found: str = line(MAX_NAME_CHARS)(param, value)
    if not found.isascii() or "/" in found or "*" in found:
        raise wrong(param, "printable ASCII characters without `/` and `*`")
    return found


def alias_name(param: str, value: Any) -> str:
    """Read a model name that clients may write, or a glob of such names."""
    found: str = line(MAX_MODEL_CHARS)(param, value)
    if found.startswith("/") or found.endswith("/"):
        raise wrong(param, "a name that neither begins nor ends with `/`")
    return found


_PROVIDER: Final[Mapping[str, Read]] = {
    "name": provider_name,
    "provider_type": word(*PROVIDER_TYPES),
    "base_url": base_url,
    "config": json_object,
    "is_active": truth,
    "is_default": truth,
}
_KEY: Final[Mapping[str, Read]] = {
    "name": line(MAX_NAME_CHARS),
    "weight": count(0, MAX_WEIGHT),
    "models": model_names,
    "is_active": truth,
}
_MAPPING: Final[Mapping[str, Read]] = {
    "alias_name": alias_name,
    "provider_model_name": line(MAX_MODEL_CHARS),
    "order_index": count(0, MAX_ORDER),
    "weight": count(0, MAX_WEIGHT),
    "is_default": truth,
    "config": json_object,
}

PROVIDER_FIELDS: Final = frozenset(_PROVIDER)
#: Without `value`, which the management API and the configuration file write differently.
KEY_FIELDS: Final = frozenset(_KEY)
MAPPING_FIELDS: Final = frozenset(_MAPPING)


def read_provider(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a provider in ``body``, each checked by itself.

    See :func:`check_provider` for what they must be together.
    """
    return _read(body, _PROVIDER)


def check_provider(provider: Mapping[str, Any]) -> None:
    """Check the `config` and `base_url` of a whole provider. Raises ClientError."""
    compiled = provider_config(provider["config"], provider["provider_type"])
    if not compiled.allow_private:
        refuse_private("base_url", provider["base_url"])


def read_key(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a provider's key in ``body``."""
    return _read(body, _KEY)


def read_mapping(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a mapping in ``body``. Its `config` may be a merge patch of one.

    See :func:`proxy.providers.config.mapping_config` for what a whole `config` must be.
    """
    return _read(body, _MAPPING)


def required(found: Mapping[str, Any], *names: str) -> None:
    """Raise ClientError for the first of ``names`` that is missing."""
    for name in names:
        if name not in found:
            raise ClientError(f"`{name}` is required.", param=name)


def _read(body: Mapping[str, Any], readers: Mapping[str, Read]) -> dict[str, Any]:
    return {name: read(name, body[name]) for name, read in readers.items() if name in body}
