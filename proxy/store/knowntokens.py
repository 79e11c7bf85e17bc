"""The tokens that a node knows, in one file for all its workers, for times without a database.

Each row is the result of :meth:`Grants.find` for one token, encrypted under a key of its own. A row
is as current as the last poll for changes, which removed the changed rows: :attr:`Confirmed.at`.

Layout (SQLite, mode 0600; may be deleted while no server runs, and is then made anew):

- ``known``: ``token_hash``, ``sealed`` (see :mod:`proxy.store.packed`), ``read_at``, ``expires_at``
- ``concerns``: ``id`` of a token or project, ``token_hash`` of a row that holds its ``version``
  (its ``updated_at``)
- ``gone``: ``id`` of a changed token or project, its new ``version``, ``at``: rows with an older
  version are refused. ``*`` is everything; its version is this machine's time, and rows read before
  that are refused
- ``confirmed``: one row, ``seen_until`` (the database's microseconds) and ``at``

All times but ``seen_until`` are this machine's, in microseconds.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from proxy.core.errors import CipherError
from proxy.crypto.cipher import Cipher
from proxy.store.packed import packed, unpacked
from proxy.store.records import AccessToken, Grant, Project
from proxy.store.rows import to_micros
from proxy.store.session import Session, Timeouts
from proxy.store.sqlite import SqliteBackend

#: Longer rows are not kept: with the number of rows this bounds the file.
MAX_ROW_BYTES: Final = 16 * 1024
#: Seconds for which a change is remembered: longer than a query to the database may take.
_GONE_SECONDS: Final = 120
#: Seconds between two writes of the time up to which the rows are confirmed.
CONFIRM_SECONDS: Final = 10.0
_ALL: Final = "*"
_TIMEOUTS: Final = Timeouts(wait=1.0, connect=1.0, statement=2.0)
_SCHEMA: Final = (
    "CREATE TABLE IF NOT EXISTS known (token_hash TEXT PRIMARY KEY, sealed TEXT NOT NULL,"
    " read_at INTEGER NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS concerns (id TEXT, token_hash TEXT, version INTEGER NOT NULL,"
    " PRIMARY KEY (id, token_hash)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS gone (id TEXT PRIMARY KEY, version INTEGER NOT NULL,"
    " at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS confirmed (one INTEGER PRIMARY KEY CHECK (one = 1),"
    " seen_until INTEGER NOT NULL, at INTEGER NOT NULL)",
)


_GONE: Final = (
    "INSERT INTO gone VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET version = excluded.version, "
    "at = excluded.at"
)


class Learned(NamedTuple):
    """The database's result for a token. ``grant`` is None if there is no such token. ``read_at``
    is the time before the query, in unix seconds."""

    token_hash: str
    grant: Grant | None
    read_at: float

    def concerned_by(self, ids: frozenset[str]) -> bool:
        """Whether a change of one of these tokens and projects may change this result."""
        return self.grant is not None and not ids.isdisjoint(_versions(self.grant))


class Outdated(NamedTuple):
    """Rows that are no longer valid.

    - Every row that concerns one of ``ids``.
    - For ``versions`` (id → its ``updated_at`` in microseconds), rows with another version.
    - All rows, if ``everything`` has the unix seconds at which all may have changed.
    """

    ids: frozenset[str] = frozenset()
    versions: Mapping[str, int] = {}
    everything: float | None = None

    def then(self, later: "Outdated") -> "Outdated":
        everything = self.everything if later.everything is None else later.everything
        versions = {**self.versions, **later.versions}
        return Outdated(self.ids | later.ids, versions, everything)


class Confirmed(NamedTuple):
    """States that all changes up to ``seen_until`` (microseconds, the database's clock) are removed
    from the rows, as checked ``at`` (unix seconds)."""

    seen_until: int
    at: float


class Found(NamedTuple):
    """A grant, and the unix seconds at which it was read from the database."""

    grant: Grant
    read_at: float


class KnownTokens:
    """The file. All methods raise StoreError when it cannot be read or written."""

    def __init__(
        self,
        path: Path,
        cipher: Cipher,
        *,
        max_rows: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Creates the file on first use. Keeps the newest ``max_rows`` rows."""
        self._backend = SqliteBackend(path, _TIMEOUTS)
        self._cipher = cipher
        self._max_rows = max_rows
        self._clock = clock
        self._ready = False

    def find(self, token_hash: str) -> Found | None:
        """Returns None if the token is unknown, or not readable with the keys of this node."""
        query = "SELECT sealed, read_at FROM known WHERE token_hash = ?"
        row = self._run(lambda session: session.one(query, (token_hash,)), readonly=True)
        if row is None:
            return None
        try:
            grant = unpacked(self._cipher.decrypt(row[0], **_place(token_hash)))
        except (CipherError, ValueError, TypeError, KeyError):
            return None  # written with another key, for another database, or by another version
        return Found(grant, row[1] / 1e6)

    def confirmed(self) -> Confirmed | None:
        """Returns None if nothing was confirmed yet, or there is no row."""
        query = "SELECT seen_until, at FROM confirmed WHERE EXISTS (SELECT 1 FROM known) LIMIT 1"
        row = self._run(lambda session: session.one(query), readonly=True)
        return None if row is None else Confirmed(int(row[0]), row[1] / 1e6)

    def update(
        self,
        learned: Sequence[Learned],
        outdated: Outdated,
        confirmed: Confirmed | None,
    ) -> None:
        """Removes the ``outdated`` rows, adds the ``learned`` ones that are not outdated, and
        stores ``confirmed``, in one transaction."""
        sealed = [(each, self._seal(each)) for each in learned]
        now = int(self._clock() * 1e6)

        def work(session: Session) -> None:
            _take_out(session, outdated, now)
            for each, text in sealed:
                if text is None or each.grant is None:
                    _remove(session, each.token_hash)
                else:
                    _put(session, each, each.grant, text)
            if sealed:
                self._prune(session, now)
            if confirmed is not None:
                at = int(confirmed.at * 1e6)
                session.execute(
                    "INSERT INTO confirmed VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE SET "
                    "seen_until = excluded.seen_until, at = excluded.at WHERE excluded.at > at",
                    (confirmed.seen_until, at),
                )

        self._run(work)

    def close(self) -> None:
        self._backend.close()

    def _run(self, work: Callable[[Session], Any], *, readonly: bool = False) -> Any:
        if not self._ready:
            self._backend.run(_make_tables, readonly=False, timeout=None)
            self._ready = True
        return self._backend.run(work, readonly=readonly, timeout=None)

    def _seal(self, learned: Learned) -> str | None:
        if learned.grant is None:
            return None
        sealed = self._cipher.encrypt(packed(learned.grant), **_place(learned.token_hash))
        return sealed if len(sealed) <= MAX_ROW_BYTES else None

    def _prune(self, session: Session, now: int) -> None:
        session.execute("DELETE FROM gone WHERE at < ?", (now - _GONE_SECONDS * 1_000_000,))
        rows = session.all("SELECT token_hash FROM known WHERE expires_at <= ?", (now,))
        rows += session.all(
            "SELECT token_hash FROM known ORDER BY read_at DESC LIMIT -1 OFFSET ?",
            (self._max_rows,),
        )
        for (token_hash,) in rows:
            _remove(session, token_hash)


def _make_tables(session: Session) -> None:
    for statement in _SCHEMA:
        session.execute(statement)


def _take_out(session: Session, outdated: Outdated, now: int) -> None:
    if outdated.everything is not None:
        session.execute(_GONE, (_ALL, int(outdated.everything * 1e6), now))
        session.execute("DELETE FROM known")
        session.execute("DELETE FROM concerns")
    rows = []
    for each in outdated.ids:
        rows += session.all("SELECT token_hash FROM concerns WHERE id = ?", (each,))
    for each, version in outdated.versions.items():
        session.execute(_GONE, (each, version, now))
        # Any other version: the database's clock may have been put back.
        query = "SELECT token_hash FROM concerns WHERE id = ? AND version <> ?"
        rows += session.all(query, (each, version))
    for (token_hash,) in rows:
        _remove(session, token_hash)


def _put(session: Session, learned: Learned, grant: Grant, sealed: str) -> None:
    read_at = int(learned.read_at * 1e6)
    versions = _versions(grant)
    # The row may have been read before a change, by a worker that has not seen the change yet.
    for each, version in {**versions, _ALL: read_at}.items():
        if session.one("SELECT 1 FROM gone WHERE id = ? AND version > ?", (each, version)):
            return
    newer = "SELECT 1 FROM known WHERE token_hash = ? AND read_at > ?"
    if session.one(newer, (learned.token_hash, read_at)) is not None:
        return
    _remove(session, learned.token_hash)
    expires = min(each.expires_at for each in (grant.token, *grant.ancestors))
    session.execute(
        "INSERT INTO known VALUES (?, ?, ?, ?)",
        (learned.token_hash, sealed, read_at, to_micros(expires)),
    )
    for each, version in versions.items():
        session.execute(
            "INSERT INTO concerns VALUES (?, ?, ?)", (each, learned.token_hash, version)
        )


def _remove(session: Session, token_hash: str) -> None:
    session.execute("DELETE FROM concerns WHERE token_hash = ?", (token_hash,))
    session.execute("DELETE FROM known WHERE token_hash = ?", (token_hash,))


def _versions(grant: Grant) -> dict[str, int]:
    """Returns the ids whose changes may change this grant, with their versions when it was read."""
    parts: list[Project | AccessToken] = [grant.project, grant.token, *grant.ancestors]
    return {part.id: to_micros(part.updated_at) for part in parts}


def _place(token_hash: str) -> dict[str, str]:
    return {"table": "known", "column": "sealed", "row_id": token_hash}
