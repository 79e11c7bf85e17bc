"""JSON schemas of structured outputs, as far as Anthropic takes them.

It wants every object closed, and knows a few keywords only. What it does not know goes into the
description, where the model still reads it. Source: `lib/_parse/_transform.py` of Anthropic's
Python SDK.
"""

from typing import Any, Final

import orjson

#: Keywords that pass. Others become a part of the description.
_KEPT: Final = frozenset(
    {
        "$ref",
        "type",
        "title",
        "description",
        "enum",
        "const",
        "default",
        "required",
    }
)
#: Keywords whose members are schemas by name.
_NAMED: Final = frozenset({"properties", "$defs", "definitions"})
#: Keywords with a list of schemas, and what they become.
_CHOICES: Final = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
#: Schemas nest; a deeper one is refused before it exhausts the stack.
MAX_DEPTH: Final = 100


def structured_schema(schema: Any, depth: int = 0) -> Any:
    """Return `schema` as Anthropic takes it. Raises ValueError for one that nests too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests more than {MAX_DEPTH} levels deep")
    if not isinstance(schema, dict):
        return schema
    found: dict[str, Any] = {}
    noted: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _NAMED and isinstance(value, dict):
            found[name] = {each: structured_schema(one, depth + 1) for each, one in value.items()}
        elif name in _CHOICES and isinstance(value, list):
            kept = _CHOICES[name]
            choices = [structured_schema(one, depth + 1) for one in value]
            found[kept] = [*found.get(kept, []), *choices]
        elif name == "items":
            found[name] = structured_schema(value, depth + 1)
        elif _is_kept(name, value):
            found[name] = value
        elif name != "additionalProperties" and not name.startswith("$"):
            noted[name] = value
    if found.get("type") == "object" or "properties" in found:
        found["additionalProperties"] = False
    if noted:
        words = ", ".join(f"{name}: {orjson.dumps(each).decode()}" for name, each in noted.items())
        before = found.get("description")
        note = f"{{{words}}}"
        found["description"] = f"{before}\n\n{note}" if isinstance(before, str) else note
    return found


def _is_kept(name: str, value: Any) -> bool:
    if name == "format":
        return value in _FORMATS
    if name == "minItems":
        return value in (0, 1)
    return name in _KEPT
