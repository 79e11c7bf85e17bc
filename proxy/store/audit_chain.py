"""The hash chain of audit entries: how a link is made, and how a changed or missing row is found.

Each row's hash covers the row and the hash of the row before it. It can be checked without this
program: the hash is the SHA-256, in hex, of these values one after the other, each as a netstring
(its length in bytes, ``:``, the bytes, ``,``)::

    "openai-proxy-audit-1", the hash of the row before ("" for row 1),
    seq, id, created_at, action, actor, outcome, project_id, token_id, client_ip, request_id,
    details

Text is UTF-8, a number its decimal digits, and NULL is ``-,`` in place of a netstring. ``details``
is the stored text, not its meaning as JSON. None of this depends on the database.

Note: a broken chain proves that rows were changed; a whole chain does not prove that none were.
With write access to the database all hashes can be computed anew: keep a link elsewhere, and have
it compared.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from proxy.core.errors import StoreError
from proxy.store.database import Database, Row, Session

_FORMAT: Final = "openai-proxy-audit-1"
#: The hashed columns, in this order.
COLUMNS: Final = (
    "seq, id, created_at, action, actor, outcome, project_id, token_id, client_ip, request_id, "
    "details"
)
#: Rows in memory at once.
_PAGE: Final = 500
_PAGE_QUERY: Final = (
    f"SELECT {COLUMNS}, hash FROM audit_events WHERE seq > ? AND seq <= ? "  # noqa: S608
    "ORDER BY seq LIMIT ?"
)


class Link(NamedTuple):
    """A row's number and hash. Number 0 with an empty hash precedes the first row."""

    seq: int
    hash: str


class Ends(NamedTuple):
    """``head``: the newest row. ``anchor``: the last row that retention deleted."""

    head: Link
    anchor: Link


class Break(NamedTuple):
    """The first faulty row. ``id`` is None where the row is missing."""

    seq: int
    id: str | None
    problem: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result. ``checked`` rows are as they were written, provided that the head is genuine."""

    checked: int
    ends: Ends
    broken: Break | None


def link_hash(previous: str, row: Sequence[Any]) -> str:
    """Returns the hash of ``row`` (:data:`COLUMNS`) after the row with the hash ``previous``."""
    digest = hashlib.sha256()
    for value in (_FORMAT, previous, *row):
        if value is None:
            digest.update(b"-,")
        else:
            text = str(value).encode()
            digest.update(b"%d:%b," % (len(text), text))
    return digest.hexdigest()


def read_ends(session: Session, suffix: str = "") -> Ends:
    """Reads both ends. Raises StoreError if their row was deleted: no entry can be written then."""
    sql = "SELECT seq, hash, pruned_seq, pruned_hash FROM audit_chain WHERE id = 1"
    row = session.one(sql + suffix)
    if row is None:
        raise StoreError("The audit log's head is missing from the database.")
    return Ends(Link(int(row[0]), row[1]), Link(int(row[2]), row[3]))


def verify(database: Database, expected: Link | None = None) -> Verdict:
    """Reads all rows, oldest first and a page at a time, and stops at the first faulty one.

    ``expected`` is a link that was noted earlier and must still exist. Other processes may write
    and prune meanwhile. Raises StoreError.
    """
    return _Walk(database, expected).result()


class _Walk:
    """A walk along the chain, from its anchor to the head at the start of the walk."""

    def __init__(self, database: Database, expected: Link | None) -> None:
        self._database = database
        self._expected = expected
        self._ends = database.run(read_ends, readonly=True)
        # The last link that was reached and is right; whether the expected one was met.
        self._at = self._ends.anchor
        self._met = self._at == expected
        self._checked = 0

    def result(self) -> Verdict:
        broken = self._walk() or self._surplus() or self._unmet()
        return Verdict(self._checked, self._ends, broken)

    def _walk(self) -> Break | None:
        if self._at.seq > self._ends.head.seq:
            return Break(self._at.seq, None, "the chain's head is older than this deleted row")
        while self._at.seq < self._ends.head.seq:
            page = self._page()
            if not page or page[0][0] != self._at.seq + 1:
                if self._was_pruned():
                    continue
                return self._missing(page)
            for row in page:
                if broken := self._step(row):
                    return broken
        if self._at != self._ends.head:
            return Break(self._at.seq, None, "the chain's head has another hash than this row")
        return None

    def _page(self) -> list[Row]:
        params = (self._at.seq, self._ends.head.seq, _PAGE)
        return self._database.run(lambda session: session.all(_PAGE_QUERY, params), readonly=True)

    def _step(self, row: Row) -> Break | None:
        *content, stored = row
        if content[0] != self._at.seq + 1:
            return self._missing([row])
        if link_hash(self._at.hash, content) != stored:
            return Break(
                content[0],
                content[1],
                "its hash is not that of its content behind the row before: one of the two was "
                "changed, or took another's place",
            )
        self._reach(Link(content[0], stored))
        self._checked += 1
        return None

    def _reach(self, link: Link) -> None:
        self._at = link
        self._met = self._met or link == self._expected

    def _missing(self, page: Sequence[Row]) -> Break:
        first = self._at.seq + 1
        last = page[0][0] - 1 if page else self._ends.head.seq
        what = "this row is" if first == last else f"the rows up to {last} are"
        return Break(first, None, f"{what} missing")

    def _was_pruned(self) -> bool:
        """Whether retention deleted the next rows meanwhile; the walk then continues after them."""
        ends = self._database.run(read_ends, readonly=True)
        if ends.anchor.seq <= self._at.seq:
            return False
        self._ends = ends
        self._reach(ends.anchor)
        return True

    def _surplus(self) -> Break | None:
        """A row beyond either end."""

        def work(session: Session) -> tuple[Row | None, Ends, Row | None]:
            # In this order: rows written or pruned in between are no surplus.
            query = "SELECT seq, id FROM audit_events ORDER BY seq{} LIMIT 1"
            last = session.one(query.format(" DESC"))
            return last, read_ends(session), session.one(query.format(""))

        last, ends, first = self._database.run(work, readonly=True)
        if first is not None and first[0] <= ends.anchor.seq:
            return Break(first[0], first[1], "this row had been deleted, and is there again")
        if last is not None and last[0] > ends.head.seq:
            return Break(last[0], last[1], "this row is newer than the chain's head")
        return None

    def _unmet(self) -> Break | None:
        expected, ends = self._expected, self._ends
        if expected is None or self._met:
            return None
        if expected.seq > ends.head.seq:
            problem = f"expected row {expected.seq}, and the chain ends before it"
            return Break(ends.head.seq, None, problem)
        if expected.seq < ends.anchor.seq:
            problem = "its time was over and it is deleted, so it cannot be compared"
        else:
            problem = "its hash is not the expected one: the chain was made anew"
        return Break(expected.seq, None, problem)
