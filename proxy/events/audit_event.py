"""An audit entry as a line among the usage events, for the same sinks.

Only these lines have the field ``event`` with the value ``audit``, so that a reader can separate
them from usage events.
"""

from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from proxy.events.truncate import truncate

#: Value of the field ``event``.
AUDIT: Final = "audit"
#: A line is truncated to this size; the database has the whole entry.
_MAX_BYTES: Final = 4000


class Entry(Protocol):
    """The fields used of the store's audit entry."""

    @property
    def seq(self) -> int: ...
    @property
    def id(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def action(self) -> str: ...
    @property
    def actor(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def project_id(self) -> str | None: ...
    @property
    def token_id(self) -> str | None: ...
    @property
    def client_ip(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def details(self) -> dict[str, Any]: ...
    @property
    def hash(self) -> str: ...


def audit_line(entry: Entry) -> bytes:
    """`entry` as one JSON line with its line end. A long line is truncated and marked as such."""
    line = orjson.dumps(
        {
            "event_id": UUID(entry.id).hex,
            "event": AUDIT,
            "timestamp": entry.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": entry.request_id,
            "project_id": entry.project_id,
            "token_id": entry.token_id,
            "action": entry.action,
            "actor": entry.actor,
            "outcome": entry.outcome,
            "client_ip": entry.client_ip,
            "seq": entry.seq,
            "hash": entry.hash,
            "details": entry.details,
        }
    )
    return truncate(line, _MAX_BYTES) + b"\n"
