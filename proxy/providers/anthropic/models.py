"""Anthropic's list of models: its pages, and what it says of each model.

```json
{"data": [{"type": "model", "id": "claude-…", "max_tokens": 64000, "capabilities": {
    "effort": {"supported": true, "low": {"supported": true}, …},
    "thinking": {"supported": true, "types": {"enabled": {"supported": true}, …}}}}],
 "has_more": true, "first_id": "…", "last_id": "claude-…"}
```

Compatible servers leave members out: what is missing is not known.

Source: https://platform.claude.com/docs/en/api/models/list, and `types/model_info.py` of
Anthropic's Python SDK.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from proxy.providers.base import NO_FACTS, ModelFacts

#: A page has 20 models unless more are asked for, 1000 at most.
FIRST_PAGE: Final = "/v1/models?limit=1000"
_MAX_CURSOR_CHARS: Final = 256
_MAX_TOKENS: Final = 2**31
_EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
_THINKING: Final = ("enabled", "disabled", "adaptive", "between_tools")
#: A snapshot's name. Without its date, or with `-latest` in its place, it is the newest one's alias
#: (https://platform.claude.com/docs/en/about-claude/models/overview).
_SNAPSHOT: Final = re.compile(r"(.+)-(\d{8})", re.ASCII)


def next_page(document: Mapping[str, Any]) -> str | None:
    """Return the path and query of the page behind this one; None: it is the last."""
    cursor = document.get("last_id")
    if document.get("has_more") is not True or not isinstance(cursor, str):
        return None
    if not 0 < len(cursor) <= _MAX_CURSOR_CHARS:
        return None
    return f"{FIRST_PAGE}&after_id={quote(cursor, safe='')}"


def model_facts(item: Mapping[str, Any]) -> ModelFacts:
    """Return what an item of the list says of its model. Never raises."""
    most = item.get("max_tokens")
    capabilities = _object(item.get("capabilities"))
    effort = _object(capabilities.get("effort"))
    thinking = _object(capabilities.get("thinking"))
    efforts: frozenset[str] | None = None
    if isinstance(effort.get("supported"), bool):
        efforts = _supported(effort, _EFFORTS) if effort["supported"] else frozenset()
    types = thinking.get("types")
    found = ModelFacts(
        max_tokens=most if type(most) is int and 0 < most < _MAX_TOKENS else None,
        efforts=efforts,
        thinking=_supported(types, _THINKING) if isinstance(types, dict) else None,
    )
    return NO_FACTS if found == NO_FACTS else found


def facts_by_name(models: Iterable[tuple[str, ModelFacts]]) -> dict[str, ModelFacts]:
    """Return the facts that are known, by the names of the models and of their aliases."""
    found: dict[str, ModelFacts] = {}
    newest: dict[str, tuple[str, ModelFacts]] = {}
    for name, facts in models:
        if facts == NO_FACTS:
            continue
        found[name] = facts
        if snapshot := _SNAPSHOT.fullmatch(name):
            alias, date = snapshot.groups()
            if date > newest.get(alias, ("", NO_FACTS))[0]:
                newest[alias] = date, facts
    for alias, (_, facts) in newest.items():
        for name in (alias, f"{alias}-latest"):
            found.setdefault(name, facts)
    return found


def _supported(capabilities: Mapping[str, Any], names: Iterable[str]) -> frozenset[str]:
    return frozenset(
        name for name in names if _object(capabilities.get(name)).get("supported") is True
    )


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
