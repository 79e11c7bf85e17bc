"""What an audit entry is looked for by, as SQL that means the same on every database.

The thing to get wrong: what people type is text, so the wildcards of LIKE in it are escaped. And
databases do not agree on capitals: letters from a to z are found in either form, all others as they
are written.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

import orjson

from proxy.store.session import Value

#: All that entries tell of.
Action = Literal[
    "project.create",
    "project.update",
    "project.delete",
    "token.create",
    "token.update",
    "token.revoke",
    "token.revoke_batch",
    "token.mint",
    "keys.rotate",
    "db.import",
    "auth.denied",
]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

_CONDITIONS: Final = {
    "action": "action = ?",
    "project_id": "project_id = ?",
    "token_id": "token_id = ?",
    "outcome": "outcome = ?",
    "client_ip": "client_ip = ?",
    "request_id": "request_id = ?",
    "start": "created_at >= ?",
    "end": "created_at < ?",
}
#: For other text than the column has: MySQL refuses to compare it with a column of ASCII.
_NOTHING: Final = "1 = 0"
#: No backslash, whose meaning in a string is a setting of the server's.
_ESCAPE: Final = "!"


def conditions(filters: Mapping[str, Value]) -> tuple[str, list[Value]]:
    """``" WHERE …"`` and its parameters; empty without filters.

    ``action``, ``project_id``, ``token_id``, ``outcome``, ``client_ip``, ``request_id``; ``actor``
    (``token`` is every ``token:<id>``, too); ``search``, a text in actor, action or details;
    ``start`` and, not included, ``end``, in microseconds since the epoch.
    """
    found, params = [], list[Value]()
    for name, value in filters.items():
        if name == "actor":
            found.append("(actor = ? OR actor LIKE ? ESCAPE ?)")
            params += [value, f"{_like(str(value))}:%", _ESCAPE]
        elif name == "search":
            condition, values = _search(str(value))
            found.append(condition)
            params += values
        elif isinstance(value, str) and not value.isascii():
            found.append(_NOTHING)
        else:
            found.append(_CONDITIONS[name])
            params.append(value)
    return f" WHERE {' AND '.join(found)}" if found else "", params


def _search(text: str) -> tuple[str, list[Value]]:
    found, params = [], list[Value]()
    within_json = orjson.dumps(text).decode()[1:-1]
    places = [("actor", text), ("details", within_json)]
    if text.isascii():
        places.append(("action", text))
    for column, looked_for in places:
        found += [f"LOWER({column}) LIKE ? ESCAPE ?", f"{column} LIKE ? ESCAPE ?"]
        lowered = "".join(letter.lower() if letter.isascii() else letter for letter in looked_for)
        params += [f"%{_like(lowered)}%", _ESCAPE, f"%{_like(looked_for)}%", _ESCAPE]
    return f"({' OR '.join(found)})", params


def _like(text: str) -> str:
    for special in (_ESCAPE, "%", "_"):
        text = text.replace(special, _ESCAPE + special)
    return text
