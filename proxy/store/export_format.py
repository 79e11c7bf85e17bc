"""The format of an export: a row as a line and back, and the valid values of every field.

A line carries the content of the columns unchanged: times are microseconds since the epoch,
documents are JSON in a string (parsed and written again, a number or the order of names might
change). Nothing here may depend on the database that a row comes from or goes to.

A migration that adds a column adds a field here, with its own number as ``since``: a line of an
older export may lack it, and then gets NULL or the field's default.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.core.errors import ClientError
from proxy.crypto.cipher import Cipher
from proxy.store.session import Value

_INTEGERS: Final = 2**63
#: The range of a datetime, in microseconds since the epoch.
_FIRST_MOMENT: Final = -62_135_596_800_000_000
_LAST_MOMENT: Final = 253_402_300_799_999_999
#: The smallest column for text without a limit of its own (MySQL's TEXT), in bytes.
_TEXT_BYTES: Final = 65_535
#: Metadata and policies; the management API takes far less.
_DOCUMENT_BYTES: Final = 1024 * 1024
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


class TransferError(ClientError):
    """A file that cannot be imported, or a database that cannot be exported or imported into."""


#: Turns a JSON value into a column's; raises ValueError, which says what was expected.
Check = Callable[[Any], Value]


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    check: Check
    #: The migration that added the column.
    since: int = 1
    #: The value for a line of an older export.
    absent: Value = None


def _text(
    max_chars: int = _TEXT_BYTES, pattern: re.Pattern[str] | None = None, what: str = ""
) -> Check:
    expected = what or f"a string of at most {max_chars} characters"

    def check(value: Any) -> Value:
        if (
            not isinstance(value, str)
            or len(value) > max_chars
            or len(value.encode()) > _TEXT_BYTES
        ):
            raise ValueError(expected)
        # PostgreSQL has no room for NUL.
        if "\x00" in value or (pattern is not None and not pattern.fullmatch(value)):
            raise ValueError(expected)
        return value

    return check


def _integer(low: int, high: int, what: str) -> Check:
    def check(value: Any) -> Value:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(what)
        return value

    return check


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _flag(value: Any) -> Value:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - one exception for all of them
    return int(value)


def _document(value: Any) -> Value:
    expected = f"a JSON object of at most {_DOCUMENT_BYTES} bytes, in a string"
    if not isinstance(value, str) or len(value.encode()) > _DOCUMENT_BYTES or "\x00" in value:
        raise ValueError(expected)
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise ValueError(expected) from None
    if not isinstance(parsed, dict):
        raise ValueError(expected)  # noqa: TRY004
    return value


def _sealed(value: Any) -> Value:
    if not isinstance(value, str) or len(value) > _TEXT_BYTES or Cipher.key_id_of(value) is None:
        raise ValueError("an encrypted key, v1:<key id>:<base64>")
    return value


def _patterns(value: Any) -> Value:
    expected = f"a JSON list of strings of at most {_DOCUMENT_BYTES} bytes, in a string"
    if not isinstance(value, str) or len(value.encode()) > _DOCUMENT_BYTES or "\x00" in value:
        raise ValueError(expected)
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise ValueError(expected) from None
    if not isinstance(parsed, list) or not all(isinstance(entry, str) for entry in parsed):
        raise ValueError(expected)
    return value


_uuid = _text(pattern=_UUID, what="a UUID in lower case")
_name = _text(255)
_mask = _text(64)
_moment = _integer(_FIRST_MOMENT, _LAST_MOMENT, "microseconds since 1970, a whole number")
_count = _integer(0, _INTEGERS - 1, "a whole number, 0 or more")
#: What an INTEGER of every database keeps.
_small = _integer(0, 2**31 - 1, "a whole number from 0 to 2147483647")
_word = _text(64, re.compile(r"[\x21-\x7e]+"), "1 to 64 visible ASCII characters")
_model = _text(256)


@dataclass(frozen=True, slots=True)
class Kind:
    """One table. ``name`` is the value of ``kind`` in its lines."""

    name: str
    table: str
    #: Its unique fields, in words.
    unique: str
    fields: Sequence[Field]
    #: The migration that added the table.
    since: int = 1
    #: A field, and the name of the kind that has the row that it refers to.
    refers: tuple[str, str] | None = None

    @property
    def sealed(self) -> str | None:
        """The field with ciphertexts."""
        return next((field.name for field in self.fields if field.check is _sealed), None)

    @property
    def columns(self) -> list[str]:
        return [field.name for field in self.fields]

    def to_line(self, row: Sequence[Any]) -> bytes:
        """Returns the line for ``row``, which has :attr:`columns` in their order."""
        content: dict[str, Any] = {"kind": self.name}
        for field, value in zip(self.fields, row, strict=True):
            content[field.name] = bool(value) if field.check is _flag else value
        return orjson.dumps(content) + b"\n"

    def to_row(self, content: Mapping[str, Any], schema: int) -> list[Value]:
        """Returns the row for a line of an export at migration ``schema``.

        Raises ValueError, which names the field and the problem, but never shows a value.
        """
        if unknown := content.keys() - set(self.columns) - {"kind"}:
            raise ValueError(f"unknown field {sorted(unknown)[0][:80]!r}")
        return [self._column(field, content, schema) for field in self.fields]

    def _column(self, field: Field, content: Mapping[str, Any], schema: int) -> Value:
        if field.name not in content:
            if field.since > schema:
                return field.absent
            raise ValueError(f"the field {field.name!r} is missing")
        try:
            return field.check(content[field.name])
        except ValueError as error:
            raise ValueError(f"{field.name}: expected {error}") from None


PROJECT: Final = Kind(
    "project",
    "projects",
    "id or name",
    (
        Field("id", _uuid),
        Field("name", _name),
        Field("description", _optional(_text())),
        Field("metadata", _document),
        Field("policy", _optional(_document), since=2),
        Field("upstream_key", _sealed),
        Field("upstream_key_mask", _mask),
        Field("is_active", _flag),
        Field("deactivated_at", _optional(_moment)),
        Field("created_at", _moment),
        Field("updated_at", _moment),
        Field("cache_epoch", _small, since=9, absent=0),
    ),
)
TOKEN: Final = Kind(
    "token",
    "tokens",
    "id or token_hash",
    (
        Field("id", _uuid),
        Field("token_hash", _text(pattern=_HASH, what="64 hex digits in lower case")),
        Field("token_mask", _mask),
        Field("name", _optional(_name)),
        Field("project_id", _uuid),
        Field("expires_at", _moment),
        Field("is_active", _flag),
        Field("revoked_at", _optional(_moment)),
        Field("max_requests", _optional(_count)),
        Field("policy", _optional(_document), since=2),
        Field("request_count", _count),
        Field("cache_hit_count", _count),
        Field("last_used_at", _optional(_moment)),
        Field("created_at", _moment),
        Field("updated_at", _moment),
        Field("parent_id", _optional(_uuid), since=4),
        Field("tokens_used", _count, since=4, absent=0),
    ),
    refers=("project_id", "project"),
)
PROVIDER: Final = Kind(
    "provider",
    "providers",
    "id or name",
    (
        Field("id", _uuid),
        Field("name", _name),
        Field("provider_type", _word),
        Field("base_url", _text(2048)),
        Field("config", _document),
        Field("is_active", _flag),
        Field("is_default", _flag),
        Field("created_at", _moment),
        Field("updated_at", _moment),
    ),
    since=8,
)
PROVIDER_KEY: Final = Kind(
    "provider_key",
    "provider_keys",
    "id, or provider_id and name",
    (
        Field("id", _uuid),
        Field("provider_id", _uuid),
        Field("name", _name),
        Field("value", _sealed),
        Field("mask", _mask),
        Field("weight", _small),
        Field("models", _patterns),
        Field("is_active", _flag),
        Field("created_at", _moment),
        Field("updated_at", _moment),
    ),
    since=8,
    refers=("provider_id", "provider"),
)
MAPPING: Final = Kind(
    "mapping",
    "mappings",
    "id, or alias_name, provider_id and provider_model_name",
    (
        Field("id", _uuid),
        Field("alias_name", _model),
        # Perhaps a provider of the configuration file, so it may be missing in an export.
        Field("provider_id", _word),
        Field("provider_model_name", _model),
        Field("order_index", _small),
        Field("weight", _small),
        Field("is_default", _flag),
        Field("config", _document),
        Field("created_at", _moment),
        Field("updated_at", _moment),
    ),
    since=8,
)
#: In the order of an export: a row comes after what it refers to.
KINDS: Final = (PROJECT, TOKEN, PROVIDER, PROVIDER_KEY, MAPPING)


FORMAT: Final = "openai-proxy export"
VERSION: Final = 1
_KEY_ID: Final = re.compile(r"[0-9a-f]{8}")
_NAMES: Final = {"format", "version", "schema", "key_ids"}


@dataclass(frozen=True, slots=True)
class Header:
    #: The newest migration of the database that was exported.
    schema: int
    #: The ids of the encryption keys that the file's ciphertexts need.
    key_ids: tuple[str, ...]
    #: Table → its rows, for every kind.
    counts: Mapping[str, int]

    def to_line(self) -> bytes:
        content = {
            "format": FORMAT,
            "version": VERSION,
            "schema": self.schema,
            "key_ids": self.key_ids,
            **self.counts,
        }
        return orjson.dumps(content) + b"\n"

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Header":
        """Raises TransferError for anything but a header, and for an unknown version."""
        if content.get("format") != FORMAT:
            raise TransferError("line 1: this is no export of openai-proxy.")
        if content.get("version") != VERSION:
            raise TransferError("line 1: the file has a format that this version does not know.")
        damaged = TransferError("line 1: the header is damaged.")
        schema, key_ids = content.get("schema"), content.get("key_ids")
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 0:
            raise damaged
        counts: dict[str, Any] = {
            # An older export lacks the tables that came later.
            kind.table: content.get(kind.table, 0 if kind.since > schema else None)
            for kind in KINDS
        }
        if (
            content.keys() - counts.keys() != _NAMES
            or not all(type(number) is int and number >= 0 for number in counts.values())
            or not isinstance(key_ids, list)
            or not all(isinstance(item, str) and _KEY_ID.fullmatch(item) for item in key_ids)
        ):
            raise damaged
        return cls(schema, tuple(key_ids), counts)
