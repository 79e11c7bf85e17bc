"""All policy fields: where each may stand, and what it may be.

A document is what is stored of a project or a token: field → value, in the one spelling that
:meth:`Field.read` gives it. The thing to get wrong: an empty list is never "no limit". That is
``null``, and a field that is not there.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from proxy.core.errors import ClientError
from proxy.policy.addresses import address_range
from proxy.policy.endpoints import endpoint_pattern
from proxy.policy.headers import header_glob, header_name
from proxy.policy.origins import origin_pattern

Place = Literal["project", "token"]

#: So that a document stays small: entries of a list, names of an object, characters of each.
MOST_ENTRIES: Final = 100
MOST_NAMES: Final = 50
LONGEST_ENTRY: Final = 256
#: Requests or LLM tokens per minute; requests at once; LLM tokens in all (a signed BIGINT).
MOST_PER_MINUTE: Final = 1_000_000_000
MOST_AT_ONCE: Final = 1_000_000
MOST_IN_ALL: Final = 2**63 - 1

_METHOD: Final = re.compile(r"[A-Z]{3,20}", re.ASCII)
_PARAM: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}", re.ASCII)

_Entry = Callable[[str], str]
_Reader = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """``default`` is what an answer shows when the field is not set."""

    places: tuple[Place, ...]
    _read: _Reader
    default: Any = None

    def read(self, name: str, value: Any) -> Any:
        """``value`` in its stored spelling. ClientError: what ``name`` must be."""
        return self._read(name, value)


def _wrong(name: str, expected: str) -> ClientError:
    return ClientError(f"`{name}` must be {expected}.", param=name)


def _entry(name: str, value: Any, read: _Entry) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_ENTRY:
        raise _wrong(name, f"made of strings of at most {LONGEST_ENTRY} characters")
    if not value.isprintable():
        raise _wrong(name, "made of strings without control characters")
    try:
        return read(value)
    except ValueError as error:
        raise ClientError(f"`{name}`: {value!r} is not {error}.", param=name) from error


def _list(name: str, value: Any, read: _Entry, least: int) -> list[str]:
    if not isinstance(value, list) or not least <= len(value) <= MOST_ENTRIES:
        unset = "; null is no limit" if least else ""
        raise _wrong(name, f"a list of {least} to {MOST_ENTRIES} strings{unset}")
    return list(dict.fromkeys(_entry(name, entry, read) for entry in value))


def _list_of(read: _Entry, least: int = 1) -> _Reader:
    return lambda name, value: _list(name, value, read, least)


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


def _param(value: str) -> str:
    if not _PARAM.fullmatch(value):
        raise ValueError("a parameter's name")
    return value


def _object(name: str, value: Any, read: _Entry, least: int) -> dict[str, list[str]]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MOST_NAMES:
        raise _wrong(
            name, f'an object of 1 to {MOST_NAMES} names, such as {{"name": ["value"]}}; '
            "null is no limit"
        )  # fmt: skip
    return {
        _entry(name, key, read): _list(name, patterns, _any, least)
        for key, patterns in value.items()
    }


def _params(name: str, value: Any) -> dict[str, list[str]]:
    return _object(name, value, _param, 0)


def _required(name: str, value: Any) -> dict[str, list[str]]:
    """A list of names requires the headers, whatever their values."""
    if isinstance(value, list):
        value = {str(key): ["*"] for key in _list(name, value, header_name, 1)}
    read = _object(name, value, header_name, 1)
    if len({key.upper() for key in read}) < len(read):
        raise _wrong(name, "made of different headers: their case does not matter")
    return read


def _integer_to(most: int) -> _Reader:
    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise _wrong(name, f"an integer from 1 to {most}; null is no limit")
        return value

    return read


def _choice(*options: str) -> _Reader:
    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in options:
            raise _wrong(name, "one of: " + ", ".join(f"`{option}`" for option in options))
        return value

    return read


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return value


_BOTH: Final[tuple[Place, ...]] = ("project", "token")
_PROJECT: Final[tuple[Place, ...]] = ("project",)
_TOKEN: Final[tuple[Place, ...]] = ("token",)

FIELDS: Final[Mapping[str, Field]] = {
    "allowed_methods": Field(_BOTH, _list_of(_method)),
    "allowed_endpoints": Field(_BOTH, _list_of(endpoint_pattern)),
    "allowed_models": Field(_BOTH, _list_of(_model)),
    "allowed_params": Field(_BOTH, _params),
    "allowed_ips": Field(_BOTH, _list_of(address_range)),
    "allowed_origins": Field(_BOTH, _list_of(origin_pattern)),
    "required_headers": Field(_BOTH, _required),
    "forwarded_headers": Field(_BOTH, _list_of(header_glob, least=0)),
    "rate_limit_rpm": Field(_BOTH, _integer_to(MOST_PER_MINUTE)),
    "rate_limit_tpm": Field(_BOTH, _integer_to(MOST_PER_MINUTE)),
    "max_concurrent": Field(_BOTH, _integer_to(MOST_AT_ONCE)),
    "max_tokens_total": Field(_TOKEN, _integer_to(MOST_IN_ALL)),
    "can_mint": Field(_TOKEN, _boolean, False),
    "on_disconnect": Field(_PROJECT, _choice("cancel", "drain"), "cancel"),
    "on_revoke": Field(_PROJECT, _choice("cut", "finish"), "cut"),
    "cut_in_flight": Field(_PROJECT, _boolean, False),
    "stream_usage": Field(_PROJECT, _choice("off", "inject"), "off"),
}


_BY_PLACE: Final[Mapping[Place, Mapping[str, Field]]] = {
    place: {name: field for name, field in FIELDS.items() if place in field.places}
    for place in _BOTH
}


def fields_of(place: Place) -> Mapping[str, Field]:
    """The fields that may stand there, by name, in the order in which they are shown."""
    return _BY_PLACE[place]


def read_document(document: Any, place: Place) -> dict[str, Any]:
    """A stored document, checked again. ValueError: a field is not known, or not understood."""
    if not isinstance(document, Mapping):
        raise ValueError(f"the {place}'s are no object")  # noqa: TRY004  (it was read, not passed)
    known = fields_of(place)
    if unknown := document.keys() - known.keys():
        raise ValueError(f"not known of a {place}: {sorted(unknown)}"[:200])
    try:
        return {
            name: known[name].read(name, value)
            for name, value in document.items()
            if value is not None
        }
    except ClientError as error:
        raise ValueError(f"the {place}'s: {error}") from error
