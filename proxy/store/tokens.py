"""Access tokens: hashes, limits, counts. The secret itself never comes here.

Counting (``lease_permits``, ``add_counts``) never touches ``updated_at``: that column answers "what
was revoked or changed since?", and counting would drown it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from proxy.errors import ClientError
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.expiry import activity
from proxy.store.records import AccessToken, Revoked
from proxy.store.rows import TOKEN_COLUMNS, assignments, changed_policy, to_micros, token_from

_SELECT: Final = f"SELECT {TOKEN_COLUMNS} FROM tokens t "  # noqa: S608 - a constant
#: What :meth:`Tokens.update` may change.
_EDITABLE: Final = frozenset({"name", "is_active", "max_requests", "expires_at", "policy"})
#: Two nodes may report out of order: the later moment stays.
_USED: Final = (
    "last_used_at = CASE WHEN last_used_at IS NULL OR last_used_at < ? THEN ? ELSE last_used_at END"
)


#: The last permits of a token are leased singly; before them, in blocks of so many at the most.
ONE_BY_ONE: Final = 100
MOST_LEASED: Final = 50


class Tokens:
    """All methods: StoreError when the database does not answer. Times are aware datetimes."""

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
    ) -> AccessToken:
        """A new, active token. ``token_id`` is a UUIDv7: its order is the order of creation.

        A ``policy`` field that is None is one that was not set.

        ClientError: ``not_found`` (no such project), ``project_inactive``, ``conflict``.
        """
        expires = to_micros(expires_at)
        rules = changed_policy({}, policy or {})

        def work(session: Session) -> AccessToken:
            # Locked, so that a deactivation running now either sees this token or refuses it.
            if not _lock_project(session, project_id):
                raise ClientError(
                    "The project is inactive: it can have no new tokens.", code="project_inactive"
                )
            now = session.now()
            who = (token_id, token_hash, token_mask, name, project_id)
            session.execute(
                "INSERT INTO tokens (id, token_hash, token_mask, name, project_id, expires_at, "
                "is_active, max_requests, policy, created_at, updated_at) "
                "VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?, ?, ?)",
                (*who, expires, max_requests, rules, now, now),
            )
            return _read(session, token_id)

        try:
            return self._database.run(work)
        except Conflict as error:
            raise ClientError("There is such a token already.", code="conflict") from error

    def get(self, token_id: str) -> AccessToken:
        """ClientError ``not_found``: no such token."""
        return self._database.run(lambda session: _read(session, token_id), readonly=True)

    def list(
        self,
        project_id: str | None = None,
        active: bool | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> list[AccessToken]:
        """Newest first; those older than the token with the id ``after``, ``limit`` at most.

        ``active`` is the field ``is_active``: that of an expired token changes a moment later.
        """
        conditions: list[tuple[str, Value]] = []
        if project_id is not None:
            conditions.append(("t.project_id = ?", project_id))
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

    def update(self, token_id: str, changes: Mapping[str, Any]) -> AccessToken:
        """Changes what ``changes`` names: ``name``, ``is_active`` (False revokes, True revives),
        ``max_requests``, ``expires_at`` (revives what ran out), ``policy`` (the fields to change;
        one that is None is removed). ClientError ``not_found``."""
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
                # Merged under the row's lock: two changes of different fields both last.
                columns["policy"] = changed_policy(before.policy, changes["policy"])
            if columns:
                columns["updated_at"] = now
                session.execute(
                    f"UPDATE tokens SET {assignments(columns)} WHERE id = ?",  # noqa: S608 - fixed names
                    (*columns.values(), token_id),
                )
            return _read(session, token_id)

        return self._database.run(work)

    def revoke(self, token_id: str) -> AccessToken:
        """Revoked now, or long ago: then its ``revoked_at`` stays. ClientError ``not_found``."""
        return self.update(token_id, {"is_active": False})

    def revoke_secret(self, token_hash: str) -> AccessToken:
        """:meth:`revoke` for who has only the secret (its hash). ClientError ``not_found``."""

        def work(session: Session) -> str | None:
            row = session.one("SELECT id FROM tokens WHERE token_hash = ?", (token_hash,))
            return None if row is None else str(row[0])

        token_id = self._database.run(work, readonly=True)
        if token_id is None:
            raise ClientError("There is no such token.", code="not_found")
        return self.revoke(token_id)

    def revoke_all(self, project_id: str) -> Revoked:
        """Every token of a project, in one transaction. ClientError ``not_found``."""

        def work(session: Session) -> Revoked:
            _lock_project(session, project_id)
            revoked = revoke_tokens_of(session, project_id, session.now())
            row = session.one("SELECT COUNT(*) FROM tokens WHERE project_id = ?", (project_id,))
            total = int(row[0]) if row is not None else 0
            return Revoked(revoked, total - revoked, total)

        return self._database.run(work)

    def lease_permits(self, token_id: str, now: datetime) -> int:
        """Counts a block of requests against ``max_requests``; answers how many, 0: used up.

        The row is locked in between, so any number of nodes admit exactly as many as there are.
        """
        used = to_micros(now)

        def work(session: Session) -> int:
            query = "SELECT max_requests, request_count FROM tokens WHERE id = ?"
            row = session.one(query + session.dialect.for_update, (token_id,))
            if row is None:
                return 0
            remaining = ONE_BY_ONE if row[0] is None else int(row[0]) - int(row[1])
            if remaining <= 0:
                return 0
            block = min(MOST_LEASED, max(1, (remaining - ONE_BY_ONE) // 8))
            session.execute(
                f"UPDATE tokens SET request_count = request_count + ?, {_USED} WHERE id = ?",  # noqa: S608
                (block, used, used, token_id),
            )
            return block

        return self._database.run(work)

    def return_permits(self, permits: Mapping[str, int]) -> None:
        """Uncounts what was leased and not used. Never to be tried again: it may have been done."""

        def work(session: Session) -> None:
            for token_id, count in sorted(permits.items()):
                session.execute(
                    "UPDATE tokens SET request_count = request_count - ? WHERE id = ?",
                    (count, token_id),
                )

        self._database.run(work)

    def add_counts(self, entries: Sequence[tuple[str, int, datetime]]) -> None:
        """Adds (token id, requests, last used at) in one transaction; unknown ids are nothing."""
        sums: dict[str, tuple[int, int]] = {}
        for token_id, count, last_used_at in entries:
            known, latest = sums.get(token_id, (0, 0))
            sums[token_id] = (known + count, max(latest, to_micros(last_used_at)))
        if not sums:
            return

        def work(session: Session) -> None:
            # In one order everywhere: two nodes flushing the same tokens must not deadlock.
            for token_id, (count, used) in sorted(sums.items()):
                session.execute(
                    f"UPDATE tokens SET request_count = request_count + ?, {_USED} WHERE id = ?",  # noqa: S608
                    (count, used, used, token_id),
                )

        self._database.run(work)


def revoke_tokens_of(session: Session, project_id: str, now: int) -> int:
    """Revokes what is active, or has only run out, inside the caller's transaction; answers how
    many that were."""
    return session.execute(
        "UPDATE tokens SET is_active = 0, revoked_at = ?, updated_at = ? "
        "WHERE project_id = ? AND (is_active = 1 OR revoked_at IS NULL)",
        (now, now, project_id),
    )


def _lock_project(session: Session, project_id: str) -> bool:
    """True when the project is active; it stays as it is until the transaction ends."""
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
