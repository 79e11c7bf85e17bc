"""All policy fields: the scope of each, and its possible values.

A document is stored with a project or a token: field → value, in the one spelling that
:meth:`Field.read` returns.

Note: an empty list never means "no limit". ``null`` and a missing field do; of ``providers``, which
is no limit, all three mean none.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

from proxy.core.errors import ClientError
from proxy.policy.addresses import address_range
from proxy.policy.endpoints import endpoint_pattern
from proxy.policy.headers import header_glob, header_name
from proxy.policy.origins import origin_pattern
from proxy.providers.base_url import base_url
from proxy.providers.config import MAX_RETRIES

Scope = Literal["project", "token"]

#: Bounds that keep a document small: entries of a list, names of an object, characters of each.
MAX_ENTRIES: Final = 100
MAX_NAMES: Final = 50
MAX_ENTRY_CHARS: Final = 256
#: Requests or LLM tokens per minute; requests in flight; LLM tokens in all (a signed BIGINT).
MAX_PER_MINUTE: Final = 1_000_000_000
MAX_CONCURRENT: Final = 1_000_000
MAX_TOKENS_TOTAL: Final = 2**63 - 1

CacheMode = Literal["off", "opt_in", "on"]
#: The values of `cache`, the narrowest first.
CACHE_MODES: Final[tuple[CacheMode, ...]] = get_args(CacheMode)

#: As the only entry of `providers`: all providers, also those that are added later.
ALL_PROVIDERS: Final = "*"

_METHOD: Final = re.compile(r"[A-Z]{3,20}", re.ASCII)
_PARAM: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)

_Entry = Callable[[str], str]
_Reader = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One policy field. Responses show ``default`` when the field is not set."""

    scopes: tuple[Scope, ...]
    _read: _Reader
    default: Any = None
    #: Whether a token that does not set it has its project's. A response then shows null.
    inherited: bool = False

    def read(self, name: str, value: Any) -> Any:
        """Return ``value`` in its stored spelling. Raises ClientError with the valid values."""
        return self._read(name, value)


def _wrong(name: str, expected: str) -> ClientError:
    return ClientError(f"`{name}` must be {expected}.", param=name)


def _entry(name: str, value: Any, read: _Entry) -> str:
    if not isinstance(value, str) or len(value) > MAX_ENTRY_CHARS:
        raise _wrong(name, f"made of strings of at most {MAX_ENTRY_CHARS} characters")
    if not value.isprintable():
        raise _wrong(name, "made of strings without control characters")
    try:
        return read(value)
    except ValueError as error:
        raise ClientError(f"`{name}`: {value!r} is not {error}.", param=name) from error


def _list(name: str, value: Any, read: _Entry, minimum: int) -> list[str]:
    if not isinstance(value, list) or not minimum <= len(value) <= MAX_ENTRIES:
        unset = "; null is no limit" if minimum else ""
        raise _wrong(name, f"a list of {minimum} to {MAX_ENTRIES} strings{unset}")
    return list(dict.fromkeys(_entry(name, entry, read) for entry in value))


def _list_of(read: _Entry, minimum: int = 1) -> _Reader:
    return lambda name, value: _list(name, value, read, minimum)


def _any(value: str) -> str:
    return value


def _method(value: str) -> str:
    method = value.upper()
    if not _METHOD.fullmatch(method):
        raise ValueError("a method such as `GET` or `POST`")
    return method


def _model(value: str) -> str:
    if value != value.strip() or not set("?[]").isdisjoint(value):
        raise ValueError("a model's name, in which `*` may stand for any run of characters")
    return value


def _provider(value: str) -> str:
    if not value or value != value.strip() or "/" in value:
        raise ValueError("the name of a provider")
    return value


def _param(value: str) -> str:
    if not _PARAM.fullmatch(value):
        raise ValueError("a parameter's name")
    return value


def _object(name: str, value: Any, read: _Entry, minimum: int) -> dict[str, list[str]]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_NAMES:
        raise _wrong(
            name, f'an object of 1 to {MAX_NAMES} names, such as {{"name": ["value"]}}; '
            "null is no limit"
        )  # fmt: skip
    return {
        _entry(name, key, read): _list(name, patterns, _any, minimum)
        for key, patterns in value.items()
    }


def _params(name: str, value: Any) -> dict[str, list[str]]:
    return _object(name, value, _param, 0)


def _required(name: str, value: Any) -> dict[str, list[str]]:
    """A list of names requires the headers with any value."""
    if isinstance(value, list):
        value = {str(key): ["*"] for key in _list(name, value, header_name, 1)}
    read = _object(name, value, header_name, 1)
    if len({key.upper() for key in read}) < len(read):
        raise _wrong(name, "made of different headers: their case does not matter")
    return read


def _integer_to(maximum: int) -> _Reader:
    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
            raise _wrong(name, f"an integer from 1 to {maximum}; null is no limit")
        return value

    return read


def _choice(*options: str) -> _Reader:
    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise _wrong(name, "one of: " + ", ".join(f"`{option}`" for option in options))
        return value

    return read


def _retries(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_RETRIES:
        raise _wrong(name, f"an integer from 0 to {MAX_RETRIES}")
    return value


def _providers(name: str, value: Any) -> list[str]:
    found = _list(name, value, _provider, 0)
    if ALL_PROVIDERS in found and len(found) > 1:
        raise _wrong(name, f'names of providers, or ["{ALL_PROVIDERS}"] alone for all of them')
    return found


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return value


_BOTH: Final[tuple[Scope, ...]] = ("project", "token")
_PROJECT: Final[tuple[Scope, ...]] = ("project",)
_TOKEN: Final[tuple[Scope, ...]] = ("token",)

FIELDS: Final[Mapping[str, Field]] = {
    "allowed_methods": Field(_BOTH, _list_of(_method)),
    "allowed_endpoints": Field(_BOTH, _list_of(endpoint_pattern)),
    "allowed_models": Field(_BOTH, _list_of(_model)),
    "allowed_params": Field(_BOTH, _params),
    "allowed_ips": Field(_BOTH, _list_of(address_range)),
    "allowed_origins": Field(_BOTH, _list_of(origin_pattern)),
    "required_headers": Field(_BOTH, _required),
    "forwarded_headers": Field(_BOTH, _list_of(header_glob, minimum=0)),
    "rate_limit_rpm": Field(_BOTH, _integer_to(MAX_PER_MINUTE)),
    "rate_limit_tpm": Field(_BOTH, _integer_to(MAX_PER_MINUTE)),
    "max_concurrent": Field(_BOTH, _integer_to(MAX_CONCURRENT)),
    "max_tokens_total": Field(_TOKEN, _integer_to(MAX_TOKENS_TOTAL)),
    "can_mint": Field(_TOKEN, _boolean, False),
    "on_disconnect": Field(_PROJECT, _choice("cancel", "drain", "hold"), "cancel"),
    "on_revoke": Field(_PROJECT, _choice("cut", "finish"), "cut"),
    "cut_in_flight": Field(_PROJECT, _boolean, False),
    "stream_usage": Field(_PROJECT, _choice("off", "inject"), "off"),
    "base_url": Field(_PROJECT, base_url),
    "providers": Field(_PROJECT, _providers, []),
    "max_retries": Field(_PROJECT, _retries, 0),
    "breaker": Field(_PROJECT, _choice("off", "on"), "off"),
    "cache": Field(_BOTH, _choice(*CACHE_MODES), "off", inherited=True),
    "cache_scope": Field(_PROJECT, _choice("project", "token"), "project"),
    "coalesce": Field(_PROJECT, _choice("off", "on"), "off"),
    "idempotency": Field(_PROJECT, _choice("off", "on"), "off"),
}


def _in_scope(field: Field, scope: Scope) -> Field:
    return replace(field, default=None) if scope == "token" and field.inherited else field


_BY_SCOPE: Final[Mapping[Scope, Mapping[str, Field]]] = {
    scope: {
        name: _in_scope(field, scope) for name, field in FIELDS.items() if scope in field.scopes
    }
    for scope in _BOTH
}


def fields_of(scope: Scope) -> Mapping[str, Field]:
    """Return the fields of a scope by name, in the order in which responses show them."""
    return _BY_SCOPE[scope]


def read_fields(document: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """Return known fields in their stored spelling. Raises ClientError."""
    known = fields_of(scope)
    return {
        name: known[name].read(name, value) for name, value in document.items() if value is not None
    }


def check_together(document: Mapping[str, Any]) -> None:
    """Check a project's fields that depend on each other. Raises ClientError."""
    if document.get("coalesce") == "on" and document.get("cache", "off") == "off":
        raise ClientError(
            "`coalesce: on` shares the responses that the cache may store: it needs `cache`, "
            "`opt_in` or `on`.",
            param="coalesce",
        )


def read_document(document: Any, scope: Scope) -> dict[str, Any]:
    """Check a stored document again. Raises ValueError for an unknown or invalid field."""
    if not isinstance(document, Mapping):
        raise ValueError(f"the {scope}'s are no object")  # noqa: TRY004  (it was read, not passed)
    known = fields_of(scope)
    if unknown := document.keys() - known.keys():
        raise ValueError(f"not known of a {scope}: {sorted(unknown)}"[:200])
    try:
        return read_fields(document, scope)
    except ClientError as error:
        raise ValueError(f"the {scope}'s: {error}") from error
