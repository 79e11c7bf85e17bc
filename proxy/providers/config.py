"""The `config` of providers and of mappings: its members, their bounds, and its compiled form.

The management API, the configuration file and the command line share these readers, so a value
means the same in each. Every refusal is a ClientError whose ``param`` names the member.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.providers.readers import Read, count, json_object, seconds, truth, word, wrong

KEY_STRATEGIES: Final = ("weighted", "round_robin", "least_used", "priority", "sticky")
#: Causes for which the next target is tried.
FALLBACK_CAUSES: Final = (
    "connect",
    "auth",
    "rate",
    "server",
    "stream_error",
    "timeout",
    "reset",
    "context",
    "content",
)

MAX_TIMEOUT: Final = 24 * 3600.0
MAX_RETRIES: Final = 10
MAX_HOLD: Final = 600.0
_MAX_MODELS: Final = 1000
_MAX_MODEL_LENGTH: Final = 256
_API_VERSION: Final = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """A provider's `config`, compiled. Times are in seconds."""

    #: The bound of a whole buffered response.
    timeout: float = 600.0
    #: The bound of the wait for the first output of a stream.
    ttft_timeout: float = 120.0
    #: Further attempts at one target.
    max_retries: int = 1
    key_strategy: str = "weighted"
    #: Whether a parameter that the provider lacks is refused instead of dropped.
    strict: bool = False
    #: Whether `GET /v1/models` lists this provider's models.
    list_models: bool = True
    #: The models, where the provider is not to be asked for them. Empty: it is asked.
    models: tuple[str, ...] = ()
    #: Whether private and metadata addresses are allowed.
    allow_private: bool = False
    #: Azure: `v1`, or a date such as `2024-10-21`.
    api_version: str = ""
    #: Azure: `api-key` or `bearer`.
    auth: str = ""
    #: Anthropic.
    anthropic_version: str = ""
    max_tokens: int | None = None
    #: Custom: whether it has Anthropic's `/v1/messages`, too.
    messages: bool = False
    #: All but Anthropic: whether requests for `/v1/messages` are translated to chats.
    translates_messages: bool = False


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """How a mapping narrows the routing of its alias. None: as the provider or settings say."""

    timeout: float | None = None
    ttft_timeout: float | None = None
    max_retries: int | None = None
    fallback_on: frozenset[str] | None = None
    first_output_hold: float | None = None
    native_fallback: bool = False
    expose_provider: bool | None = None


@dataclass(frozen=True, slots=True)
class MappingConfig:
    """A mapping's `config`, compiled: what is changed in the body, and how it is routed."""

    #: Members that are added where the client sends none of that name.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: Members that replace the client's.
    override: Mapping[str, Any] = field(default_factory=dict)
    #: Names of members that are removed.
    drop: frozenset[str] = frozenset()
    routing: RouteOptions = field(default_factory=RouteOptions)


def _version(param: str, value: Any) -> str:
    if not isinstance(value, str) or not _API_VERSION.fullmatch(value):
        raise wrong(param, "a version such as `v1` or `2024-10-21`")
    return value


def model_names(param: str, value: Any) -> tuple[str, ...]:
    """Read a list of model names or globs of them. Raises ClientError."""
    if (
        not isinstance(value, list)
        or len(value) > _MAX_MODELS
        or not all(isinstance(name, str) and 0 < len(name) <= _MAX_MODEL_LENGTH for name in value)
        or not all(name.isprintable() for name in value)
    ):
        raise wrong(
            param,
            f"a list of at most {_MAX_MODELS} names of 1 to {_MAX_MODEL_LENGTH} characters",
        )
    return tuple(dict.fromkeys(value))


def _strictness(param: str, value: Any) -> bool:
    return bool(word("drop", "strict")(param, value) == "strict")


def _translates(param: str, value: Any) -> bool:
    return bool(word("translate")(param, value))


def _causes(param: str, value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(
        isinstance(cause, str) and cause in FALLBACK_CAUSES for cause in value
    ):
        raise wrong(param, "a list of: " + ", ".join(f"`{cause}`" for cause in FALLBACK_CAUSES))
    return frozenset(value)


#: Member → the field of :class:`ProviderConfig`, how it is read, and the types that have it.
_PROVIDER: Final[Mapping[str, tuple[str, Read, tuple[str, ...]]]] = {
    "timeout": ("timeout", seconds(1, MAX_TIMEOUT), ()),
    "ttft_timeout": ("ttft_timeout", seconds(1, MAX_TIMEOUT), ()),
    "max_retries": ("max_retries", count(0, MAX_RETRIES), ()),
    "key_strategy": ("key_strategy", word(*KEY_STRATEGIES), ()),
    "params": ("strict", _strictness, ()),
    "list_models": ("list_models", truth, ()),
    "models": ("models", model_names, ()),
    "allow_private": ("allow_private", truth, ()),
    "api_version": ("api_version", _version, ("azure",)),
    "auth": ("auth", word("api-key", "bearer"), ("azure",)),
    "anthropic_version": ("anthropic_version", _version, ("anthropic",)),
    "max_tokens": ("max_tokens", count(1, 10_000_000), ("anthropic",)),
    "messages": ("messages", truth, ("custom",)),
    "serve_messages": (
        "translates_messages",
        _translates,
        ("openai", "azure", "custom", "gemini", "ollama"),
    ),
}

_ROUTING: Final[Mapping[str, Read]] = {
    "timeout": seconds(1, MAX_TIMEOUT),
    "ttft_timeout": seconds(1, MAX_TIMEOUT),
    "max_retries": count(0, MAX_RETRIES),
    "fallback_on": _causes,
    "first_output_hold": seconds(0, MAX_HOLD),
    "native_fallback": truth,
    "expose_provider": truth,
}


def provider_config(
    config: Mapping[str, Any], provider_type: str, param: str = "config"
) -> ProviderConfig:
    """Compile a provider's `config`. Raises ClientError that names the member that is wrong."""
    found: dict[str, Any] = {}
    if provider_type == "ollama":
        found["ttft_timeout"] = 300.0  # it loads a model on the first request, which takes minutes
    for name, value in config.items():
        known = _PROVIDER.get(name)
        if known is None:
            raise ClientError(f"Unknown field: {f'{param}.{name}'[:100]!r}.", param=param)
        target, read, types = known
        if types and provider_type not in types:
            raise ClientError(
                f"`{param}.{name}` is for providers of the type {' or '.join(types)}.",
                param=f"{param}.{name}",
            )
        found[target] = read(f"{param}.{name}", value)
    if found.get("messages") and found.get("translates_messages"):
        raise ClientError(
            f"`{param}.messages` says that it has `/v1/messages`, so there is nothing to translate:"
            f" leave out `{param}.serve_messages`.",
            param=f"{param}.serve_messages",
        )
    return ProviderConfig(**found)


def mapping_config(config: Mapping[str, Any], param: str = "config") -> MappingConfig:
    """Compile a mapping's `config`. Raises ClientError that names the member that is wrong.

    Members other than `defaults`, `override`, `drop` and `routing` are defaults of the body.
    """
    defaults: dict[str, Any] = {}
    override: dict[str, Any] = {}
    drop: frozenset[str] = frozenset()
    routing: dict[str, Any] = {}
    for name, value in config.items():
        where = f"{param}.{name}"
        if name == "defaults":
            defaults = {**defaults, **json_object(where, value)}
        elif name == "override":
            override = json_object(where, value)
        elif name == "drop":
            drop = frozenset(model_names(where, value))
        elif name == "routing":
            for option, chosen in json_object(where, value).items():
                read = _ROUTING.get(option)
                if read is None:
                    raise ClientError(f"Unknown field: {f'{where}.{option}'[:100]!r}.", param=where)
                routing[option] = read(f"{where}.{option}", chosen)
        else:
            defaults.setdefault(name, value)
    for where, members in (("defaults", defaults), ("override", override)):
        if "model" in members:
            raise ClientError(
                f"`{param}.{where}` must not set `model`: that is `provider_model_name`.",
                param=f"{param}.{where}",
            )
    if "model" in drop:
        raise ClientError(f"`{param}.drop` must not name `model`.", param=f"{param}.drop")
    return MappingConfig(defaults, override, drop, RouteOptions(**routing))
