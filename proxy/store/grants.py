"""Grants of access tokens: the only database look-up on the path of a request.

It takes one query, and a second one where the token has ancestors. This is the only place that
decrypts an upstream key. A grant states what is stored, inactive and expired tokens included: the
authenticator judges it.
"""

import logging
from typing import Final

from proxy.core.errors import StoreError
from proxy.crypto.cipher import Cipher
from proxy.store.database import Database, Row, Session
from proxy.store.records import Grant
from proxy.store.rows import (
    PROJECT_COLUMNS,
    PROJECT_WIDTH,
    TOKEN_COLUMNS,
    TOKEN_WIDTH,
    project_from,
    token_from,
)

_log = logging.getLogger(__name__)

_QUERY: Final = (
    f"SELECT {TOKEN_COLUMNS}, {PROJECT_COLUMNS}, p.upstream_key "  # noqa: S608 - a constant
    "FROM tokens t JOIN projects p ON p.id = t.project_id WHERE t.token_hash = ?"
)


_PARENT: Final = TOKEN_COLUMNS.split(", ").index("t.parent_id")

#: How many ancestors a token may have. Minting enforces it; here it bounds the rows read.
MAX_ANCESTORS: Final = 4

_ANCESTORS: Final = (
    "WITH RECURSIVE chain (id, parent_id, height) AS ("  # noqa: S608
    "SELECT a.id, a.parent_id, 1 FROM tokens a WHERE a.id = ? "
    "UNION ALL SELECT a.id, a.parent_id, c.height + 1 FROM chain c "
    "JOIN tokens a ON a.id = c.parent_id WHERE c.height < ?"
    f") SELECT {TOKEN_COLUMNS} FROM chain c JOIN tokens t ON t.id = c.id ORDER BY c.height"
)


class Grants:
    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    def find(self, token_hash: str) -> Grant | None:
        """Returns the grant of the token with this SHA-256 (hex), or None if there is none.

        Raises StoreError when the database does not respond, and CipherError when the key cannot
        be decrypted.
        """
        row, ancestors = self._database.run(
            lambda session: _read(session, token_hash), readonly=True
        )
        if row is None:
            return None
        token = token_from(row[:TOKEN_WIDTH])
        project = project_from(row[TOKEN_WIDTH : TOKEN_WIDTH + PROJECT_WIDTH])
        stored: str = row[-1]
        if not self._cipher.is_encrypted(stored):
            self._encrypt_stored(project.id, stored)
        place = {"table": "projects", "column": "upstream_key", "row_id": project.id}
        upstream_key = self._cipher.decrypt(stored, **place)
        return Grant(token, project, upstream_key, tuple(map(token_from, ancestors)))

    def _encrypt_stored(self, project_id: str, plaintext: str) -> None:
        # The key is from before encryption, or was inserted by hand. The comparison keeps a key
        # that was changed meanwhile. updated_at stays, for no observable value changed.
        sealed = self._cipher.encrypt(
            plaintext, table="projects", column="upstream_key", row_id=project_id
        )

        def work(session: Session) -> None:
            session.execute(
                "UPDATE projects SET upstream_key = ? WHERE id = ? AND upstream_key = ?",
                (sealed, project_id, plaintext),
            )

        try:
            self._database.run(work)
        except StoreError:
            # This request has its key; the next one tries again.
            _log.warning("the upstream key of project %s is still stored in plaintext", project_id)


def _read(session: Session, token_hash: str) -> tuple[Row | None, list[Row]]:
    row = session.one(_QUERY, (token_hash,))
    parent_id = None if row is None else row[_PARENT]
    if parent_id is None:
        return row, []
    return row, session.all(_ANCESTORS, (parent_id, MAX_ANCESTORS))
