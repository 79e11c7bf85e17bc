"""What is written alike to the tables of providers, provider keys and mappings.

Note: names of tables and columns come from the code, never from a request.
"""

from collections.abc import Mapping
from typing import Any

from proxy.store.database import Session, Value
from proxy.store.rows import assignments


def stored(changes: Mapping[str, Any]) -> dict[str, Value]:
    """Return changed fields as their columns hold them, without `config`, which is merged."""
    return {
        name: int(value) if isinstance(value, bool) else value
        for name, value in changes.items()
        if name != "config"
    }


def update_row(
    session: Session, table: str, row_id: str, columns: Mapping[str, Value], now: int
) -> None:
    """Set `columns` of a row, and when it changed (microseconds)."""
    changed = {**columns, "updated_at": now}
    session.execute(
        f"UPDATE {table} SET {assignments(changed)} WHERE id = ?",  # noqa: S608
        (*changed.values(), row_id),
    )


def clear_default(session: Session, table: str, row_id: str, now: int) -> dict[str, Any]:
    """Take `is_default` from every other row. Returns what the audit entry says about it."""
    query = f"SELECT id FROM {table} WHERE is_default = 1 AND id <> ?"  # noqa: S608
    others = [str(row[0]) for row in session.all(query, (row_id,))]
    for other in others:
        update_row(session, table, other, {"is_default": 0}, now)
    return {"no_longer_default": others} if others else {}
