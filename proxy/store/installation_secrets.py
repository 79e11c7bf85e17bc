"""Secrets of the installation: random bytes that its nodes share, encrypted like upstream keys."""

import base64
import binascii
import contextlib
import os
from typing import Final

from proxy.core.errors import CipherError
from proxy.crypto.cipher import Cipher
from proxy.store.database import Conflict, Database, Session

#: Keys the keys of stored responses: who reads them cannot confirm a guessed prompt.
RESPONSE_CACHE: Final = "response_cache"
_SECRET_BYTES: Final = 32


class InstallationSecrets:
    """The repository. All nodes get the same secret of a name, also when two make it at once."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    def get(self, name: str) -> bytes:
        """Returns the 32 bytes of the secret `name`, which is made if it is not there yet.

        Raises StoreError when the database does not respond, and CipherError when the stored
        secret cannot be decrypted.
        """
        stored = self._read(name)
        if stored is None:
            self._make(name)
            # Another node may have been first, and its secret is the one that counts.
            stored = self._read(name)
        place = _place(name)
        encoded = self._cipher.decrypt(stored or "", **place)
        try:
            secret = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != _SECRET_BYTES:
            raise CipherError(f"The stored value in {place['table']}.value of {name} is damaged.")
        return secret

    def _read(self, name: str) -> str | None:
        query = "SELECT value FROM installation_secrets WHERE id = ?"
        row = self._database.run(lambda session: session.one(query, (name,)), readonly=True)
        return None if row is None else str(row[0])

    def _make(self, name: str) -> None:
        encoded = base64.b64encode(os.urandom(_SECRET_BYTES)).decode("ascii")
        sealed = self._cipher.encrypt(encoded, **_place(name))

        def work(session: Session) -> None:
            session.execute(
                "INSERT INTO installation_secrets (id, value, created_at) VALUES (?, ?, ?)",
                (name, sealed, session.now()),
            )

        with contextlib.suppress(Conflict):
            self._database.run(work)


def _place(name: str) -> dict[str, str]:
    return {"table": "installation_secrets", "column": "value", "row_id": name}
