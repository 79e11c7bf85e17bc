"""Tokens whose time is over: they are deactivated, and come back when they are given more time.

Such a token is inactive and was never revoked (``revoked_at`` is NULL). The thing to get wrong:
``updated_at`` stays as it is. It answers "what was changed since?" in every worker, once a second,
and this changes nothing for them: an expired token is refused anyway.
"""

from proxy.store.database import Database, Session, Value
from proxy.store.records import AccessToken

_FIND = (
    "SELECT id FROM tokens WHERE is_active = 1 AND expires_at <= ? "
    "ORDER BY is_active, expires_at LIMIT ?"
)


class ExpiredTokens:
    """What the housekeeping does with them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def deactivate(self, most: int) -> int:
        """Those that expired first, ``most`` (up to 900) at once; answers how many. StoreError."""

        def find(session: Session) -> tuple[list[str], int]:
            now = session.now()
            return [str(row[0]) for row in session.all(_FIND, (now, most))], now

        # Looked for without a lock, and again with one: what was extended meanwhile lives.
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
    """The columns by which a token is alive or not, as a change of ``is_active`` (``active``) or of
    ``expires_at`` (``expires``) sets them; None: not asked for. Times in microseconds.
    """
    if active is None:
        ran_out = not before.is_active and before.revoked_at is None
        return {"is_active": 1} if ran_out and expires is not None and expires > now else {}
    if active:
        return {} if before.is_active else {"is_active": 1, "revoked_at": None}
    # Also of one that only ran out: more time must not bring it back then.
    return {} if before.revoked_at is not None else {"is_active": 0, "revoked_at": now}
