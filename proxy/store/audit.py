"""The audit log: each change with its actor, in the transaction of the change.

Writing methods of the repositories take a :class:`PendingEntry` and pass it to :func:`record` as
the last step of their unit of work, so there is no change without its entry, and no entry without
its change.

Note: from that step to the end of the transaction the lock of the chain's one row is held, over
all nodes. It must always be the last lock taken, so that it causes no deadlock.

An entry never holds a secret: upstream keys and access tokens appear as their masks.
"""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, get_args

import orjson

from proxy.core.errors import ClientError
from proxy.providers.records import MappingRecord, ProviderKeyRecord, ProviderRecord
from proxy.store.audit_chain import COLUMNS, Link, link_hash, read_ends
from proxy.store.database import Database, Row, Session, Value
from proxy.store.records import AccessToken, Project
from proxy.store.rows import from_micros, to_micros

#: Every action that has entries.
Action = Literal[
    "project.create",
    "project.update",
    "project.delete",
    "token.create",
    "token.update",
    "token.revoke",
    "token.revoke_batch",
    "token.mint",
    "provider.create",
    "provider.update",
    "provider.delete",
    "key.create",
    "key.update",
    "key.delete",
    "key.reset",
    "mapping.create",
    "mapping.update",
    "mapping.delete",
    "mapping.replace",
    "cache.purge",
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
#: For text that is not ASCII: MySQL refuses to compare it with an ASCII column.
_NO_MATCH: Final = "1 = 0"
#: Not a backslash: its meaning within a string is a setting of the server.
_ESCAPE: Final = "!"


def conditions(filters: Mapping[str, Value]) -> tuple[str, list[Value]]:
    """Returns ``" WHERE …"`` and its parameters, or an empty clause without filters.

    Filters: ``action``, ``project_id``, ``token_id``, ``outcome``, ``client_ip``, ``request_id``;
    ``actor`` (``token`` also matches every ``token:<id>``); ``search``, a text in actor, action or
    details; ``start`` and ``end`` (exclusive), in microseconds since the epoch.
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
            found.append(_NO_MATCH)
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


_SELECT: Final = f"SELECT {COLUMNS}, hash FROM audit_events"  # noqa: S608 - a constant
_INSERT: Final = (
    f"INSERT INTO audit_events ({COLUMNS}, hash) "  # noqa: S608 - a constant
    f"VALUES ({', '.join('?' * (COLUMNS.count(',') + 2))})"
)
#: Fields of a record that change without an actor, or follow from the others.
_UNAUDITED: Final = frozenset(
    {"id", "project_id", "policy", "deactivated_at", "revoked_at", "created_at", "updated_at"}
    | {"source", "cache_epoch"}
    | {"request_count", "cache_hit_count", "tokens_used", "last_used_at"}
)

T = TypeVar("T", Project, AccessToken)
RoutingRecord = ProviderRecord | ProviderKeyRecord | MappingRecord
#: Kind of record → the name of its id in the details of an entry.
_ID_NAMES: Final[Mapping[type, str]] = {
    ProviderRecord: "provider_id",
    ProviderKeyRecord: "provider_key_id",
    MappingRecord: "mapping_id",
}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry as stored. ``details`` of a change: ``before`` and ``after`` of the fields."""

    seq: int
    id: str
    created_at: datetime
    action: str
    actor: str
    outcome: str
    project_id: str | None
    token_id: str | None
    client_ip: str
    request_id: str
    details: dict[str, Any]
    hash: str


@dataclass(slots=True)
class PendingEntry:
    """An entry that is not written yet.

    ``entry`` is the written entry. It is set within the transaction, so it is valid only after the
    commit.
    """

    action: Action
    actor: str
    client_ip: str = ""
    request_id: str = ""
    outcome: str = "success"
    project_id: str | None = None
    token_id: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    entry: AuditEntry | None = None
    #: Assigned at the start, so that an entry that may already be written is recognised.
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


def record(
    session: Session,
    draft: PendingEntry | None,
    before: T | None,
    after: T,
    *,
    replaced: Sequence[str] = (),
    **more: Any,
) -> T:
    """Writes ``draft``, if there is one, with the difference between two states of a row.

    ``replaced`` fields are listed even if they look the same, as masks of two keys may; ``more``
    goes into the details unchanged. Must be the last step of a unit of work. Returns ``after``.
    """
    if draft is None:
        return after
    old, new = None if before is None else _facts(before), _facts(after)
    draft.details = {**draft.details, **_difference(old, new, replaced), **more}
    if isinstance(after, Project):
        draft.project_id = after.id
    else:
        draft.project_id, draft.token_id = after.project_id, after.id
    append(session, draft)
    return after


def record_routing(
    session: Session,
    draft: PendingEntry | None,
    before: RoutingRecord | None,
    after: RoutingRecord | None,
    *,
    replaced: Sequence[str] = (),
    **more: Any,
) -> None:
    """Writes ``draft``, if there is one, as :func:`record` does, about a provider, a provider key
    or a mapping. ``before`` is None for one that was made, ``after`` for one that was deleted."""
    if draft is None:
        return
    subject = after or before
    assert subject is not None  # noqa: S101 - one of the two states is given
    old = None if before is None else shown_fields(before)
    new = None if after is None else shown_fields(after)
    ids = {_ID_NAMES[type(subject)]: subject.id}
    draft.details = {**draft.details, **ids, **_difference(old, new, replaced), **more}
    append(session, draft)


def note(
    session: Session, draft: PendingEntry | None, project_id: str | None, details: dict[str, Any]
) -> None:
    """Writes ``draft``, if there is one, about an action on a project as a whole, or on none."""
    if draft is not None:
        draft.project_id, draft.details = project_id, {**draft.details, **details}
        append(session, draft)


def append(session: Session, draft: PendingEntry) -> AuditEntry:
    """Writes ``draft`` after the newest entry. Must be the last step of a unit of work."""
    head = read_ends(session, session.dialect.for_update).head
    row = (
        head.seq + 1,
        draft.id,
        session.now(),
        draft.action,
        draft.actor[:255],
        draft.outcome,
        draft.project_id,
        draft.token_id,
        # Behind reverse proxies this is text from a header.
        draft.client_ip.encode("ascii", "replace").decode().replace("\x00", "?")[:64],
        draft.request_id[:200],
        orjson.dumps(draft.details, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z).decode(),
    )
    newest = Link(row[0], link_hash(head.hash, row))
    session.execute(_INSERT, (*row, newest.hash))
    session.execute("UPDATE audit_chain SET seq = ?, hash = ? WHERE id = 1", newest)
    draft.entry = _entry_from((*row, newest.hash))
    return draft.entry


class AuditLog:
    """The entries, written, read and pruned. Times are aware datetimes.

    All methods raise StoreError when the database does not respond.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, drafts: Sequence[PendingEntry]) -> list[AuditEntry]:
        """Writes entries about actions that change nothing else.

        After an error the same drafts may be passed again: those already written are skipped.
        """

        def work(session: Session) -> list[AuditEntry]:
            known = "SELECT 1 FROM audit_events WHERE id = ?"
            fresh = [draft for draft in drafts if session.one(known, (draft.id,)) is None]
            return [append(session, draft) for draft in fresh]

        return self._database.run(work)

    def get(self, entry_id: str) -> AuditEntry:
        """Raises ClientError ``not_found`` when there is no such entry."""
        sql = f"{_SELECT} WHERE id = ?"
        row = self._database.run(lambda session: session.one(sql, (entry_id,)), readonly=True)
        if row is None:
            raise ClientError("There is no audit entry with this id.", code="not_found")
        return _entry_from(row)

    def find(
        self, filters: Mapping[str, Value], limit: int, offset: int
    ) -> tuple[list[AuditEntry], int]:
        """Returns a page of the entries that match all ``filters``, newest first, and their total.

        ``filters`` are those of :func:`proxy.store.audit.conditions`.
        """
        where, params = conditions(filters)

        def work(session: Session) -> tuple[list[Row], int]:
            count = session.one(f"SELECT COUNT(*) FROM audit_events{where}", params)  # noqa: S608
            assert count is not None  # noqa: S101 - a COUNT has one row
            page = f"{_SELECT}{where} ORDER BY seq DESC LIMIT ? OFFSET ?"
            return session.all(page, [*params, limit, offset]), int(count[0])

        rows, total = self._database.run(work, readonly=True)
        return [_entry_from(row) for row in rows], total

    def prune(self, before: datetime, batch: int) -> int:
        """Deletes the oldest entries that are older than ``before``, at most ``batch`` of them.

        The chain is anchored at the last deleted entry, in the same transaction. Returns how many
        were deleted: fewer than ``batch`` means that there are no more.
        """
        moment = to_micros(before)

        def work(session: Session) -> int:
            anchor = read_ends(session, session.dialect.for_update).anchor
            sql = (
                "SELECT seq, hash, created_at FROM audit_events WHERE seq > ? ORDER BY seq LIMIT ?"
            )
            gone: list[Row] = []
            # Stops at the first newer one, so that no gap appears if the clock was put back.
            for row in session.all(sql, (anchor.seq, batch)):
                if row[2] >= moment:
                    break
                gone.append(row)
            if gone:
                last = gone[-1]
                session.execute("DELETE FROM audit_events WHERE seq <= ?", (last[0],))
                session.execute(
                    "UPDATE audit_chain SET pruned_seq = ?, pruned_hash = ? WHERE id = 1", last[:2]
                )
            return len(gone)

        return self._database.run(work)


def _facts(record: Project | AccessToken) -> dict[str, Any]:
    return {**shown_fields(record), **record.policy}


def shown_fields(record: Project | AccessToken | RoutingRecord) -> dict[str, Any]:
    """Returns the fields of ``record`` that entries show."""
    return {
        name: getattr(record, name)
        for name in (known.name for known in dataclasses.fields(record))
        if name not in _UNAUDITED
    }


def _difference(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, replaced: Sequence[str]
) -> dict[str, Any]:
    """Returns ``before`` and ``after`` of the facts that differ, each only if there is such a
    state."""
    old, new = before or {}, after or {}
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changed += [name for name in replaced if name not in changed]
    states = {"before": before, "after": after}
    return {name: _chosen(facts, changed) for name, facts in states.items() if facts is not None}


def _chosen(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: facts.get(name) for name in names}


def _entry_from(row: Sequence[Any]) -> AuditEntry:
    seq, entry_id, created_at, *rest = row
    *middle, details, own_hash = rest
    values = [int(seq), entry_id, from_micros(created_at), *middle, _details(details), own_hash]
    return AuditEntry(*values)


def _details(stored: str) -> dict[str, Any]:
    try:
        details: dict[str, Any] = orjson.loads(stored)
    except orjson.JSONDecodeError:
        # The row was changed from outside. The other entries must still be shown.
        return {"unreadable": stored}
    return details
