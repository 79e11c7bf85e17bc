"""JSON schemas of structured outputs, as far as Anthropic takes them.

It wants every object closed, and knows a few keywords only. What it does not know goes into the
description, where the model still reads it. Source: `lib/_parse/_transform.py` of Anthropic's
Python SDK.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.runtime.yielding import turn_if_due
from proxy.usage.json_text import LargeDict, LargeList

_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_NAMES: Final = ("description", "title")
_TYPES: Final = ("object", "array", "string", "integer", "number", "boolean", "null")
#: Keywords that hold schemas by name, for `$ref`.
_DEFINITIONS: Final = ("$defs", "definitions")
#: Keywords with a list of schemas, and what they become. The first one found counts.
_CHOICES: Final = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
#: Keywords that are said in another way, or say nothing to a model.
_SILENT: Final = frozenset({"$schema", "$id", "$comment"})
#: Schemas nest; a deeper one is refused before it exhausts the stack.
MAX_DEPTH: Final = 100
#: Values of one `enum`. No model is held to more.
MAX_LITERALS: Final = 10_000


def structured_schema(schema: Any, depth: int = 0) -> dict[str, Any]:
    """Return `schema` as Anthropic takes it. It is not changed.

    Raises ValueError for one that nests too deep, or says nothing of the type of a value.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests more than {MAX_DEPTH} levels deep")
    if not isinstance(schema, dict):
        raise ValueError("a schema in it is no object")  # noqa: TRY004  (of the client's schema)
    turn_if_due()
    rest = {name: value for name, value in schema.items() if name not in _SILENT}
    found: dict[str, Any] = LargeDict() if isinstance(schema, LargeDict) else {}
    for name in _DEFINITIONS:
        if isinstance(named := rest.pop(name, None), dict):
            found[name] = _by_name(named, depth)
    if isinstance(reference := rest.pop("$ref", None), str):
        found["$ref"] = reference
        return found
    kind = _type(rest, found, depth)
    for name in _NAMES:
        if isinstance(rest.get(name), str):
            found[name] = rest.pop(name)
    _members(kind, rest, found, depth)
    if rest:
        words = ", ".join(f"{name}: {_written(each)}" for name, each in rest.items())
        before = found.get("description")
        note = f"{{{words}}}"
        found["description"] = note if before is None else f"{before}\n\n{note}"
    return found


def _type(rest: dict[str, Any], found: dict[str, Any], depth: int) -> str | None:
    """Move what says which values there may be. Returns the one type, where there is one."""
    kind = rest.pop("type", None)
    if _literals(rest, found):
        return None
    if isinstance(kind, list):
        if len(kind) > len(_TYPES):
            raise ValueError("a schema in it has too many types")
        variants = [{**_of_type(rest, each), "type": each} for each in kind]
        for name in set(rest).difference(_NAMES):
            del rest[name]
        rest["anyOf"], kind = variants, None
    chosen = next((name for name in _CHOICES if isinstance(rest.get(name), list)), None)
    if chosen is not None:
        choices = rest.pop(chosen)
        made = [structured_schema(one, depth + 1) for one in choices]
        found[_CHOICES[chosen]] = LargeList(made) if isinstance(choices, LargeList) else made
    elif kind in _TYPES:
        found["type"] = kind
    else:
        raise ValueError("a schema in it has no `type`, choices, `enum` or `const`")
    return kind if isinstance(kind, str) else None


def _members(kind: Any, rest: dict[str, Any], found: dict[str, Any], depth: int) -> None:
    """Move the keywords of a type from `rest` to `found`."""
    if kind == "object":
        properties = rest.pop("properties", None)
        found["properties"] = _by_name(properties if isinstance(properties, dict) else {}, depth)
        rest.pop("additionalProperties", None)
        found["additionalProperties"] = False
        if (required := rest.pop("required", None)) is not None:
            found["required"] = required
    elif kind == "string":
        if isinstance(rest.get("format"), str) and rest["format"] in _FORMATS:
            found["format"] = rest.pop("format")
    elif kind == "array":
        if (items := rest.pop("items", None)) is not None:
            found["items"] = structured_schema(items, depth + 1)
        if rest.get("minItems") in (0, 1):
            found["minItems"] = rest.pop("minItems")


def _literals(rest: dict[str, Any], found: dict[str, Any]) -> bool:
    """Move `enum` and `const`, which make a type superfluous."""
    enum = rest.get("enum")
    if isinstance(enum, list) and len(enum) > MAX_LITERALS:
        raise ValueError(f"an `enum` in it has more than {MAX_LITERALS} values")
    if isinstance(enum, list) and enum and all(map(_is_primitive, enum)):
        found["enum"] = rest.pop("enum")
    if "const" in rest and _is_primitive(rest["const"]):
        found["const"] = rest.pop("const")
    return "enum" in found or "const" in found


def _of_type(rest: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """What of a schema with several types concerns one of them."""
    if kind == "null":
        return {}
    return {name: value for name, value in rest.items() if name not in _NAMES}


def _by_name(named: Mapping[str, Any], depth: int) -> dict[str, Any]:
    made = {name: structured_schema(one, depth + 1) for name, one in named.items()}
    return LargeDict(made) if isinstance(named, LargeDict) else made


def _written(value: Any) -> str:
    """Return a keyword's value as text. Raises ValueError for one of many KiB."""
    try:
        return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS).decode()
    except TypeError as error:
        raise ValueError("a keyword in it is too long for the description") from error


def _is_primitive(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
