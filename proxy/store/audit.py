"""The audit log: who changed what, in the transaction that changed it.

Writing methods of the repositories take a :class:`PendingEntry` and hand it to :func:`record` as
the last thing in their unit of work: so there is no change without its entry, and no entry without
its change. The thing to get wrong: from there to the end of the transaction the lock of the chain's
one row is held, over all nodes. It is always the last lock to be taken, so that it makes no
deadlock.

An entry never holds a secret: upstream keys and access tokens are told by their masks.
"""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, get_args

import orjson

from proxy.core.errors import ClientError
from proxy.store.audit_chain import COLUMNS, Link, link_hash, read_ends
from proxy.store.database import Database, Row, Session, Value
from proxy.store.records import AccessToken, Project
from proxy.store.rows import from_micros, to_micros

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


_SELECT: Final = f"SELECT {COLUMNS}, hash FROM audit_events"  # noqa: S608 - a constant
_INSERT: Final = (
    f"INSERT INTO audit_events ({COLUMNS}, hash) "  # noqa: S608 - a constant
    f"VALUES ({', '.join('?' * (COLUMNS.count(',') + 2))})"
)
#: Of a record: what changes without anybody's doing, or follows from the rest.
_UNTOLD: Final = frozenset(
    {"id", "project_id", "policy", "deactivated_at", "revoked_at", "created_at", "updated_at"}
    | {"request_count", "cache_hit_count", "tokens_used", "last_used_at"}
)

T = TypeVar("T", Project, AccessToken)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """``details`` is what the action has to tell: ``before`` and ``after`` of what was changed."""

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

    ``entry`` is what was written. It is set within the transaction, so it holds only when that has
    been committed.
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
    #: From the start, so that one that may have been written already is known again.
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
    """Writes ``draft``, if there is one, with what differs between two states of a row; answers
    ``after``.

    ``replaced`` fields are told even if they look the same, as the masks of two keys may; ``more``
    goes into the details as it is. The last thing in a unit of work.
    """
    if draft is None:
        return after
    old, new = {} if before is None else _facts(before), _facts(after)
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changed += [name for name in replaced if name not in changed]
    details: dict[str, Any] = {} if before is None else {"before": _chosen(old, changed)}
    draft.details = {**draft.details, **details, "after": _chosen(new, changed), **more}
    if isinstance(after, Project):
        draft.project_id = after.id
    else:
        draft.project_id, draft.token_id = after.project_id, after.id
    append(session, draft)
    return after


def note(
    session: Session, draft: PendingEntry | None, project_id: str, details: dict[str, Any]
) -> None:
    """Writes ``draft``, if there is one, about what was done to a project as a whole."""
    if draft is not None:
        draft.project_id, draft.details = project_id, {**draft.details, **details}
        append(session, draft)


def append(session: Session, draft: PendingEntry) -> AuditEntry:
    """Writes ``draft`` behind the newest entry. The last thing in a unit of work."""
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
        # Behind reverse proxies it is what a header says.
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
    """All methods: StoreError when the database does not answer. Times are aware datetimes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, drafts: Sequence[PendingEntry]) -> list[AuditEntry]:
        """For what changes nothing else. After an error the same drafts may be given again: those
        that had been written are passed over."""

        def work(session: Session) -> list[AuditEntry]:
            known = "SELECT 1 FROM audit_events WHERE id = ?"
            fresh = [draft for draft in drafts if session.one(known, (draft.id,)) is None]
            return [append(session, draft) for draft in fresh]

        return self._database.run(work)

    def get(self, entry_id: str) -> AuditEntry:
        """ClientError ``not_found``: no such entry."""
        sql = f"{_SELECT} WHERE id = ?"
        row = self._database.run(lambda session: session.one(sql, (entry_id,)), readonly=True)
        if row is None:
            raise ClientError("There is no audit entry with this id.", code="not_found")
        return _entry_from(row)

    def find(
        self, filters: Mapping[str, Value], limit: int, offset: int
    ) -> tuple[list[AuditEntry], int]:
        """Those that all ``filters`` fit, newest first, and how many there are in all.

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
        """Deletes the oldest entries, if they are from ``before``: ``batch`` of them at the most.

        The chain is anchored at the last one that went, in the same transaction. Answers how many
        went; fewer than ``batch``: there are no more.
        """
        moment = to_micros(before)

        def work(session: Session) -> int:
            anchor = read_ends(session, session.dialect.for_update).anchor
            sql = (
                "SELECT seq, hash, created_at FROM audit_events WHERE seq > ? ORDER BY seq LIMIT ?"
            )
            gone: list[Row] = []
            # Without a gap, whatever the clock did between two entries.
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
    told = {
        name: getattr(record, name)
        for name in (known.name for known in dataclasses.fields(record))
        if name not in _UNTOLD
    }
    return {**told, **record.policy}


def _chosen(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: facts.get(name) for name in names}


def _entry_from(row: Sequence[Any]) -> AuditEntry:
    seq, entry_id, created_at, *rest = row
    *middle, details, own_hash = rest
    told = [int(seq), entry_id, from_micros(created_at), *middle, _details(details), own_hash]
    return AuditEntry(*told)


def _details(stored: str) -> dict[str, Any]:
    try:
        details: dict[str, Any] = orjson.loads(stored)
    except orjson.JSONDecodeError:
        # Somebody has changed it. The others must be shown all the same.
        return {"unreadable": stored}
    return details
