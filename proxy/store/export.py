"""Export and import of a whole installation, except its usage, as JSON lines.

Each direction is one transaction and holds one page of rows in memory. So a backup of a busy
database shows one moment, a failed import leaves nothing behind, and size does not matter. Secrets
are exported as stored: ciphertexts, which also need ``ENCRYPTION_KEY``, and hashes.

Unlike other units of work these read and write a file from within, perhaps on another thread: the
caller must discard the written lines when an exception is raised.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import orjson

from proxy.crypto.cipher import Cipher
from proxy.providers.records import ROUTING_REVISION
from proxy.store.audit import PendingEntry, append
from proxy.store.database import Conflict, Database, Session
from proxy.store.export_format import KINDS, Header, Kind, TransferError
from proxy.store.migrate import check_schema, load
from proxy.store.revisions import bump

#: Seconds for a whole export or import.
TRANSFER_TIMEOUT: Final = 6 * 3600.0
#: Rows in memory at once.
_PAGE: Final = 200
#: Far more than a row has: a file without line ends must not be read into memory.
_MAX_LINE_BYTES: Final = 16 * 1024 * 1024


def export_all(database: Database, write: Callable[[bytes], object]) -> Header:
    """Passes the lines to ``write``: the same lines for the same content on every database.

    Raises TransferError for an upstream key that is not encrypted and when ``write`` fails, and
    StoreError or SchemaOutdated. Lines written before an exception are no export.
    """
    check_schema(database)

    def work(session: Session) -> Header:
        for statement in session.dialect.snapshot:
            session.execute(statement)
        header = _header(session)
        try:
            write(header.to_line())
            for kind in KINDS:
                for row in _rows(session, kind):
                    write(kind.to_line(row))
        except OSError as error:
            raise TransferError(f"cannot write the export: {error.strerror or error}") from error
        return header

    return database.run(work, readonly=True, timeout=TRANSFER_TIMEOUT)


def import_all(
    database: Database,
    file: BinaryIO,
    key_ids: Collection[str] | None,
    audit: PendingEntry | None = None,
) -> Header:
    """Reads an export into an empty database at the newest schema, all of it or nothing.

    ``key_ids`` are the keys that can be decrypted here: a file that needs another is refused. None
    accepts every file. Raises TransferError, which names the line, StoreError or SchemaOutdated.
    """
    check_schema(database)

    def work(session: Session) -> Header:
        for kind in KINDS:
            if session.one(f"SELECT 1 FROM {kind.table} LIMIT 1") is not None:  # noqa: S608
                raise TransferError(
                    f"the database is not empty, it has {kind.table}: an import needs a new one."
                )
        try:
            header = _read(session, file, key_ids)
        except OSError as error:
            raise TransferError(f"cannot read the file: {error.strerror or error}") from error
        if audit is not None:
            audit.details = dict(header.counts)
            append(session, audit)
        return header

    return database.run(work, timeout=TRANSFER_TIMEOUT)


# Export.


def _header(session: Session) -> Header:
    key_ids: set[str] = set()
    # Every row is checked before a byte is written: a key in clear must not get into a file.
    for kind in KINDS:
        if kind.sealed is None:
            continue
        columns = f"id, name, {kind.sealed}"
        sql = f"SELECT {columns} FROM {kind.table} WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
        for row_id, name, stored in _pages(session, sql):
            key_id = Cipher.key_id_of(stored)
            if key_id is None:
                raise TransferError(
                    f"the {kind.sealed} of {kind.name} {row_id} ({name}) is stored in plaintext, "
                    "or is damaged: run `manage.py keys rotate` first."
                )
            key_ids.add(key_id)
    return Header(
        schema=_schema(session),
        key_ids=tuple(sorted(key_ids)),
        counts={kind.table: _size(session, kind) for kind in KINDS},
    )


def _rows(session: Session, kind: Kind) -> Iterator[Sequence[Any]]:
    # The id is the first column.
    columns = ", ".join(kind.columns)
    return _pages(
        session,
        f"SELECT {columns} FROM {kind.table} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
    )


def _pages(session: Session, sql: str) -> Iterator[Sequence[Any]]:
    last = ""
    while True:
        page = session.all(sql, (last, _PAGE))
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1][0]


def _size(session: Session, kind: Kind) -> int:
    row = session.one(f"SELECT COUNT(*) FROM {kind.table}")  # noqa: S608
    return 0 if row is None else int(row[0])


def _schema(session: Session) -> int:
    return len(load(session.dialect.name))  # it was checked that all are applied


# Import.


def _read(session: Session, file: BinaryIO, key_ids: Collection[str] | None) -> Header:
    lines = _lines(file)
    header = Header.from_content(next(lines, (1, {}))[1])
    _check_header(header, _schema(session), key_ids)
    inserts = {
        kind.name: (
            kind,
            f"INSERT INTO {kind.table} ({', '.join(kind.columns)}) "  # noqa: S608
            f"VALUES ({', '.join('?' * len(kind.columns))})",
        )
        for kind in KINDS
    }
    seen = dict.fromkeys(inserts, 0)
    # The only thing that grows: the ids of what other rows refer to.
    ids: dict[str, set[object]] = {kind.refers[1]: set() for kind in KINDS if kind.refers}
    bump(session, ROUTING_REVISION)  # servers may be running already
    for number, content in lines:
        known = inserts.get(str(content.get("kind")))
        if known is None:
            raise TransferError(
                f"line {number}: the field 'kind' is none of: {', '.join(inserts)}."
            )
        kind, sql = known
        try:
            row = kind.to_row(content, header.schema)
            _check_row(kind, content, header, ids)
        except ValueError as error:
            raise TransferError(f"line {number}: {error}.") from None
        try:
            # One by one, so that the error can name the line that does not fit.
            session.execute(sql, row)
        except Conflict as error:
            raise TransferError(
                f"line {number}: an earlier line has a {kind.name} with the same {kind.unique}."
            ) from error
        seen[kind.name] += 1
        if kind.name in ids:
            ids[kind.name].add(content["id"])
    for kind in KINDS:
        found, expected = seen[kind.name], header.counts[kind.table]
        if found != expected:
            raise TransferError(
                f"the file is not whole: {found} {kind.name} lines, and its header says {expected}."
            )
    _check_parents(session)
    return header


def _check_header(header: Header, schema: int, key_ids: Collection[str] | None) -> None:
    if header.schema > schema:
        raise TransferError(
            f"line 1: the file comes from a newer version of the proxy (its schema is "
            f"{header.schema}, here it is {schema}): import it with that version."
        )
    if key_ids is not None and (missing := set(header.key_ids) - set(key_ids)):
        raise TransferError(
            f"line 1: the file needs encryption keys that are not set here, with the ids "
            f"{', '.join(sorted(missing))}: put them into ENCRYPTION_KEY or "
            "ENCRYPTION_KEYS_PREVIOUS."
        )


def _check_row(
    kind: Kind,
    content: Mapping[str, Any],
    header: Header,
    ids: Mapping[str, Collection[object]],
) -> None:
    """Raises ValueError if this line contradicts others."""
    if kind.refers is not None:
        field, other = kind.refers
        if content[field] not in ids[other]:
            raise ValueError(f"{field}: no earlier line has this {other}")
    if kind.sealed is not None and Cipher.key_id_of(content[kind.sealed]) not in header.key_ids:
        raise ValueError(f"{kind.sealed}: it needs a key that the header does not name")


def _check_parents(session: Session) -> None:
    # At the end: the clocks of two nodes may differ, so a child's id may sort before its parent's.
    orphan = session.one(
        "SELECT t.id FROM tokens t "
        "LEFT JOIN tokens a ON a.id = t.parent_id AND a.project_id = t.project_id "
        "WHERE t.parent_id IS NOT NULL AND a.id IS NULL ORDER BY t.id LIMIT 1"
    )
    if orphan is not None:
        raise TransferError(
            f"token {orphan[0]}: parent_id: the file has no such token in the same project."
        )


def _lines(file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > _MAX_LINE_BYTES:
            raise TransferError(f"line {number}: longer than {_MAX_LINE_BYTES} bytes.")
        try:
            content = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise TransferError(f"line {number}: not valid JSON: {error.msg}.") from error
        if not isinstance(content, dict):
            raise TransferError(f"line {number}: expected a JSON object.")
        yield number, content
