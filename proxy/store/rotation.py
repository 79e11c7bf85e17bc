"""Rotation of the encryption key: re-encrypts every stored upstream key, beside live traffic.

These are the keys of projects and those of providers. The secrets of the installation, which are
encrypted in the same way, are rotated with them.

A row is rewritten only if it still holds the ciphertext that was read, so an upstream key that is
changed meanwhile is never overwritten with the older one. ``updated_at`` stays: the upstream key in
clear is the same, so no worker has to reload it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from proxy.core.errors import CipherError
from proxy.crypto.cipher import Cipher
from proxy.store.audit import PendingEntry, note
from proxy.store.database import Database, Row, Session

#: Rows read at once.
_PAGE: Final = 200
#: Attempts on a row that changes meanwhile: each change is a call of the management API.
_ATTEMPTS: Final = 10
#: "v1:", 8 digits, ":". Enough to find which key a ciphertext needs.
_PREFIX_LENGTH: Final = 12
#: Key ids in one message.
_IDS_SHOWN: Final = 5


class _Column(NamedTuple):
    """A column of ciphertexts. ``id_name``: what an id of its table is called elsewhere. ``label``:
    the column that names a row for people."""

    table: str
    name: str
    id_name: str
    label: str = "name"

    @property
    def page_query(self) -> str:
        return (
            f"SELECT id, {self.label}, {self.name} FROM {self.table} "  # noqa: S608 - constants
            "WHERE id > ? ORDER BY id LIMIT ?"
        )

    @property
    def count_query(self) -> str:
        # Without parameters: PostgreSQL would not see that the two expressions are the same.
        prefix = f"SUBSTR({self.name}, 1, {_PREFIX_LENGTH})"
        return f"SELECT {prefix}, COUNT(*) FROM {self.table} GROUP BY {prefix}"  # noqa: S608


_COLUMNS: Final = (
    _Column("projects", "upstream_key", "project_id"),
    _Column("provider_keys", "value", "provider_key_id"),
    _Column("installation_secrets", "value", "secret_id", label="id"),
)


class KeyCount(NamedTuple):
    """How many rows need one key. ``state``: ``current``, ``previous``, ``unknown`` (not among the
    settings), ``plaintext`` or ``damaged``; the last two have no ``key_id``."""

    state: str
    key_id: str | None
    rows: int


class Unreadable(NamedTuple):
    """A row that was left unchanged: a project, a provider key, or a secret of the installation.
    ``problem`` never shows its content."""

    name: str
    problem: str
    project_id: str | None = None
    provider_key_id: str | None = None
    secret_id: str | None = None


@dataclass(slots=True)
class Rotated:
    """The result of a rotation, in rows."""

    #: From another key to the current one.
    rotated: int = 0
    #: From plaintext to the current key.
    encrypted: int = 0
    #: Already under the current key, and readable.
    current: int = 0
    failed: list[Unreadable] = field(default_factory=list)


def rotate(
    database: Database, cipher: Cipher, draft: Callable[[], PendingEntry] | None = None
) -> Rotated:
    """Re-encrypts every upstream key under the current key of ``cipher``.

    ``draft`` makes the audit entry of one row, which is written together with the row.

    A row that cannot be read is reported in the result, and the others are rotated. Another run
    does the rest. Raises StoreError if the database fails; rows already rotated stay rotated.
    """
    result = Rotated()
    for column in _COLUMNS:
        for row_id, name, stored in _rows(database, column):
            try:
                outcome = _renew(database, cipher, column, row_id, stored, draft)
            except CipherError as error:
                result.failed.append(Unreadable(name, str(error), **{column.id_name: row_id}))
                continue
            match outcome:
                case "rotated":
                    result.rotated += 1
                case "encrypted":
                    result.encrypted += 1
                case "current":
                    result.current += 1
                case "busy":
                    problem = "It is being changed all the time: try again."
                    result.failed.append(Unreadable(name, problem, **{column.id_name: row_id}))
    return result


def count_by_key(database: Database, cipher: Cipher) -> list[KeyCount]:
    """Returns the counts of every key of ``cipher``, unused ones too, then of all others in rows.

    Reads the key ids only: nothing is decrypted.
    """
    rows: Counter[tuple[str, str | None]] = Counter()
    for position, key_id in enumerate(cipher.key_ids):
        rows["previous" if position else "current", key_id] = 0
    rows["plaintext", None] = 0

    def work(session: Session) -> list[Row]:
        return [row for column in _COLUMNS for row in session.all(column.count_query)]

    for prefix, count in database.run(work, readonly=True):
        # The shortest value with this prefix: only the id matters, not the rest.
        needed = cipher.key_id_of(f"{prefix}AA==")
        if needed is not None:
            rows[_state(cipher, needed), needed] += int(count)
        else:
            rows["damaged" if cipher.is_encrypted(prefix) else "plaintext", None] += int(count)
    return [KeyCount(state, key_id, count) for (state, key_id), count in rows.items()]


def unreadable(database: Database, cipher: Cipher) -> str:
    """Returns what is wrong with the stored keys, such as ``3 of 5 rows cannot be read: …``, or "".

    Names the ids of the missing encryption keys. Reads key ids only, as :func:`count_by_key`.
    """
    counts = count_by_key(database, cipher)
    lost = [count for count in counts if count.state in ("unknown", "damaged")]
    if not lost:
        return ""
    rows, total = sum(count.rows for count in lost), sum(count.rows for count in counts)
    said = f"{rows} of {total} rows cannot be read"
    missing = sorted(count.key_id for count in lost if count.key_id)
    if not missing:
        return f"{said}: their values are damaged"
    shown = ", ".join(missing[:_IDS_SHOWN]) + (", …" if len(missing) > _IDS_SHOWN else "")
    return (
        f"{said}: they were encrypted with another key (its id is {shown}), which has to be in "
        "ENCRYPTION_KEY or ENCRYPTION_KEYS_PREVIOUS"
    )


def _state(cipher: Cipher, key_id: str) -> str:
    if key_id == cipher.key_id:
        return "current"
    return "previous" if key_id in cipher.key_ids else "unknown"


def _rows(database: Database, column: _Column) -> Iterator[tuple[str, str, str]]:
    last = ""
    while True:
        after = last

        def work(session: Session, after: str = after) -> list[tuple[str, str, str]]:
            found = session.all(column.page_query, (after, _PAGE))
            return [(row[0], row[1], row[2]) for row in found]

        page = database.run(work, readonly=True)
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1][0]


def _renew(
    database: Database,
    cipher: Cipher,
    column: _Column,
    row_id: str,
    stored: str,
    draft: Callable[[], PendingEntry] | None,
) -> str:
    """Re-encrypts one row. Returns ``rotated``, ``encrypted``, ``current``, ``gone`` or ``busy``.

    Raises CipherError.
    """
    place = {"table": column.table, "column": column.name, "row_id": row_id}
    query = f"SELECT {column.name} FROM {column.table} WHERE id = ?"  # noqa: S608 - constants
    for _ in range(_ATTEMPTS):
        # Also a row under the current key: a swapped or damaged row is reported, not skipped.
        upstream_key = cipher.decrypt(stored, **place)
        if cipher.is_current(stored):
            return "current"
        sealed = cipher.encrypt(upstream_key, **place)
        if _replace(database, column, row_id, stored, sealed, draft and draft()):
            return "rotated" if cipher.is_encrypted(stored) else "encrypted"
        # Changed meanwhile, perhaps by a worker that still has the old key: read it again.
        row = database.run(lambda session: session.one(query, (row_id,)), readonly=True)
        if row is None:
            return "gone"
        stored = row[0]
    return "busy"


def _replace(
    database: Database,
    column: _Column,
    row_id: str,
    stored: str,
    sealed: str,
    audit: PendingEntry | None,
) -> bool:
    keys = {"before": Cipher.key_id_of(stored), "after": Cipher.key_id_of(sealed)}
    details: dict[str, Any] = {name: {"key_id": key} for name, key in keys.items()}
    project_id = row_id if column.table == "projects" else None
    if project_id is None:
        details[column.id_name] = row_id

    def work(session: Session) -> bool:
        matched = session.execute(
            f"UPDATE {column.table} SET {column.name} = ? "  # noqa: S608 - constants
            f"WHERE id = ? AND {column.name} = ?",
            (sealed, row_id, stored),
        )
        if matched == 1:
            note(session, audit, project_id, details)
        return matched == 1

    return database.run(work)
