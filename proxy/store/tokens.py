"""The access tokens: hashes and limits. The secret itself never reaches the store.

A token may have a parent, from which it was minted. Its effect is judged where a token is used:
here a child of a revoked token is a row like any other, and stays when its parent is revoked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.store.audit import PendingEntry, note, record
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.records import AccessToken, Revoked
from proxy.store.rows import TOKEN_COLUMNS, assignments, changed_policy, to_micros, token_from

_FIND = (
    "SELECT id FROM tokens WHERE is_active = 1 AND expires_at <= ? "
    "ORDER BY is_active, expires_at LIMIT ?"
)


class ExpiredTokens:
    """The maintenance of expired tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def deactivate(self, max_rows: int) -> int:
        """Deactivates those that expired first, at most ``max_rows`` (up to 900) at once.

        Returns how many. Raises StoreError.
        """

        def find(session: Session) -> tuple[list[str], int]:
            now = session.now()
            return [str(row[0]) for row in session.all(_FIND, (now, max_rows))], now

        # Found without a lock, and checked again with one: a token extended meanwhile stays active.
        found, now = self._database.run(find, readonly=True)
        if not found:
            return 0
        places = ", ".join("?" * len(found))
        sql = (
            "UPDATE tokens SET is_active = 0 "  # noqa: S608 - places for parameters
            f"WHERE id IN ({places}) AND is_active = 1 AND expires_at <= ?"
        )
        params: list[Value] = [*sorted(found), now]
        return self._database.run(lambda session: session.execute(sql, params))


def activity(
    before: AccessToken, active: bool | None, expires: int | None, now: int
) -> dict[str, Value]:
    """Returns the columns that decide whether a token is alive, as a change of ``is_active``
    (``active``) or ``expires_at`` (``expires``) sets them. None means no change. Times in
    microseconds.
    """
    if active is None:
        ran_out = not before.is_active and before.revoked_at is None
        return {"is_active": 1} if ran_out and expires is not None and expires > now else {}
    if active:
        return {} if before.is_active else {"is_active": 1, "revoked_at": None}
    # Also for a token that only expired: more time must not revive it then.
    return {} if before.revoked_at is not None else {"is_active": 0, "revoked_at": now}


_SELECT: Final = f"SELECT {TOKEN_COLUMNS} FROM tokens t "  # noqa: S608 - a constant
#: The fields that :meth:`Tokens.update` may change.
_EDITABLE: Final = frozenset({"name", "is_active", "max_requests", "expires_at", "policy"})
#: How many living descendants a token of the management API may have: so the holder of a token
#: cannot fill the database.
MAX_DESCENDANTS: Final = 1000

#: The living descendants of a living token. UNION, not UNION ALL, so that it ends even in a circle.
_LIVING_DESCENDANTS: Final = (
    "WITH RECURSIVE family (id) AS ("
    "SELECT t.id FROM tokens t WHERE t.parent_id = ? AND t.expires_at > ? AND t.is_active = 1 "
    "UNION SELECT t.id FROM family f JOIN tokens t ON t.parent_id = f.id "
    "WHERE t.expires_at > ? AND t.is_active = 1"
    ") SELECT COUNT(*) FROM family"
)


class Tokens:
    """The repository. Times are aware datetimes.

    All methods raise StoreError when the database does not respond.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        token_id: str,
        project_id: str,
        token_hash: str,
        token_mask: str,
        expires_at: datetime,
        name: str | None = None,
        max_requests: int | None = None,
        policy: Mapping[str, Any] | None = None,
        lineage: Sequence[str] = (),
        audit: PendingEntry | None = None,
    ) -> AccessToken:
        """Creates an active token. ``token_id`` is a UUIDv7: ids sort in the order of creation.

        A ``policy`` field that is None counts as not set. ``lineage`` has the ids of its ancestors,
        its parent's first. Raises ClientError ``not_found`` (no such project),
        ``project_inactive``, ``conflict``, ``token_inactive`` when an ancestor is no longer alive,
        and ``rate_limit_exceeded`` when the family is too large.
        """
        expires = to_micros(expires_at)
        rules = changed_policy({}, policy or {})

        def work(session: Session) -> AccessToken:
            # Locked, so that a concurrent deactivation either sees this token or refuses it.
            if not _lock_project(session, project_id):
                raise ClientError(
                    "The project is inactive: it can have no new tokens.", code="project_inactive"
                )
            now = session.now()
            if lineage:
                # It may have been revoked since its admission: a body can take a while.
                _check_lineage(session, lineage, now)
                # Under the project's lock, so that two at once cannot both take the last place.
                _check_family(session, lineage[-1], now)
            session.execute(
                "INSERT INTO tokens (id, token_hash, token_mask, name, project_id, expires_at, "
                "is_active, max_requests, policy, created_at, updated_at, parent_id) "
                "VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)",
                (
                    token_id,
                    token_hash,
                    token_mask,
                    name,
                    project_id,
                    expires,
                    max_requests,
                    rules,
                    now,
                    now,
                    lineage[0] if lineage else None,
                ),
            )
            return record(session, audit, None, _read(session, token_id))

        try:
            return self._database.run(work)
        except Conflict as error:
            raise ClientError("There is such a token already.", code="conflict") from error

    def get(self, token_id: str) -> AccessToken:
        """Raises ClientError ``not_found`` when there is no such token."""
        return self._database.run(lambda session: _read(session, token_id), readonly=True)

    def list(
        self,
        project_id: str | None = None,
        active: bool | None = None,
        limit: int | None = None,
        after: str | None = None,
        parent_id: str | None = None,
    ) -> list[AccessToken]:
        """Returns tokens, newest first: those older than the id ``after``, at most ``limit``.

        ``active`` is the field ``is_active``, which changes a while after a token has expired.
        """
        conditions: list[tuple[str, Value]] = []
        if project_id is not None:
            conditions.append(("t.project_id = ?", project_id))
        if parent_id is not None:
            conditions.append(("t.parent_id = ?", parent_id))
        if active is not None:
            conditions.append(("t.is_active = ?", int(active)))
        if after is not None:
            conditions.append(("t.id < ?", after))
        sql = _SELECT
        if conditions:
            sql += "WHERE " + " AND ".join(condition for condition, _ in conditions)
        sql += " ORDER BY t.id DESC"
        params = [value for _, value in conditions]
        if limit is not None:
            sql += " LIMIT ?"
            params.append(limit)
        rows = self._database.run(lambda session: session.all(sql, params), readonly=True)
        return [token_from(row) for row in rows]

    def update(
        self, token_id: str, changes: Mapping[str, Any], audit: PendingEntry | None = None
    ) -> AccessToken:
        """Changes the fields in ``changes``: ``name``, ``is_active`` (False revokes, True revives),
        ``max_requests``, ``expires_at`` (revives an expired token), ``policy`` (the fields to
        change; None removes one). Raises ClientError ``not_found``."""
        if unknown := changes.keys() - _EDITABLE:
            raise ValueError(f"not a field of a token: {sorted(unknown)}")
        values: dict[str, Value] = {
            name: value for name, value in changes.items() if name not in ("is_active", "policy")
        }
        expires = to_micros(changes["expires_at"]) if "expires_at" in changes else None
        if expires is not None:
            values["expires_at"] = expires
        active: bool | None = changes.get("is_active")

        def work(session: Session) -> AccessToken:
            before = _read(session, token_id, session.dialect.for_update)
            now = session.now()
            columns = values | activity(before, active, expires, now)
            if "policy" in changes:
                # Merged under the row's lock, so that two changes of different fields both persist.
                columns["policy"] = changed_policy(before.policy, changes["policy"])
            if columns:
                columns["updated_at"] = now
                session.execute(
                    f"UPDATE tokens SET {assignments(columns)} WHERE id = ?",  # noqa: S608 - fixed names
                    (*columns.values(), token_id),
                )
            return record(session, audit, before, _read(session, token_id))

        return self._database.run(work)

    def revoke(self, token_id: str, audit: PendingEntry | None = None) -> AccessToken:
        """Revokes a token. If it is revoked already, its ``revoked_at`` stays.

        Raises ClientError ``not_found``.
        """
        return self.update(token_id, {"is_active": False}, audit)

    def revoke_secret(self, token_hash: str, audit: PendingEntry | None = None) -> AccessToken:
        """:meth:`revoke` by the hash of the secret. Raises ClientError ``not_found``."""

        def work(session: Session) -> str | None:
            row = session.one("SELECT id FROM tokens WHERE token_hash = ?", (token_hash,))
            return None if row is None else str(row[0])

        token_id = self._database.run(work, readonly=True)
        if token_id is None:
            raise ClientError("There is no such token.", code="not_found")
        return self.revoke(token_id, audit)

    def revoke_all(self, project_id: str, audit: PendingEntry | None = None) -> Revoked:
        """Revokes every token of a project in one transaction. Raises ClientError ``not_found``."""

        def work(session: Session) -> Revoked:
            _lock_project(session, project_id)
            revoked = revoke_tokens_of(session, project_id, session.now())
            row = session.one("SELECT COUNT(*) FROM tokens WHERE project_id = ?", (project_id,))
            total = int(row[0]) if row is not None else 0
            result = Revoked(revoked, total - revoked, total)
            note(session, audit, project_id, asdict(result))
            return result

        return self._database.run(work)


def revoke_tokens_of(session: Session, project_id: str, now: int) -> int:
    """Revokes the tokens that are active or merely expired, inside the caller's transaction.

    Returns how many there were.
    """
    return session.execute(
        "UPDATE tokens SET is_active = 0, revoked_at = ?, updated_at = ? "
        "WHERE project_id = ? AND (is_active = 1 OR revoked_at IS NULL)",
        (now, now, project_id),
    )


def _lock_project(session: Session, project_id: str) -> bool:
    """Returns whether the project is active, which cannot change until the transaction ends."""
    query = "SELECT is_active FROM projects WHERE id = ?"
    row = session.one(query + session.dialect.for_update, (project_id,))
    if row is None:
        raise ClientError("There is no project with this id.", code="not_found", param="project_id")
    return bool(row[0])


def _read(session: Session, token_id: str, suffix: str = "") -> AccessToken:
    row = session.one(f"{_SELECT}WHERE t.id = ?{suffix}", (token_id,))
    if row is None:
        raise ClientError("There is no token with this id.", code="not_found")
    return token_from(row)


def _check_lineage(session: Session, lineage: Sequence[str], now: int) -> None:
    row = session.one(
        f"SELECT COUNT(*) FROM tokens WHERE id IN ({', '.join('?' * len(lineage))}) "  # noqa: S608
        "AND is_active = 1 AND expires_at > ?",
        (*lineage, now),
    )
    if row is None or int(row[0]) < len(lineage):
        raise ClientError(code="token_inactive")


def _check_family(session: Session, root_id: str, now: int) -> None:
    row = session.one(_LIVING_DESCENDANTS, (root_id, now, now))
    if row is not None and int(row[0]) >= MAX_DESCENDANTS:
        raise ClientError(
            f"There are {MAX_DESCENDANTS} living tokens that come from this one: wait until some "
            "have expired.",
            code="rate_limit_exceeded",
            retry_after=60,
        )
