"""All providers, keys and mappings of the database at one moment, with the keys decrypted.

A worker reads them at its start, and again whenever the revision of the routing tables changes.
"""

import logging
from typing import Final

from proxy.core.errors import CipherError, StoreError
from proxy.crypto.cipher import Cipher
from proxy.providers.records import ProviderKeySecret, RoutingRecords
from proxy.store.database import Database, Row, Session
from proxy.store.mappings import MAPPING_COLUMNS, MAPPING_ORDER, mapping_from
from proxy.store.provider_keys import (
    PROVIDER_KEY_COLUMNS,
    PROVIDER_KEY_WIDTH,
    provider_key_from,
    value_cell,
)
from proxy.store.providers import PROVIDER_COLUMNS, provider_from

_log = logging.getLogger(__name__)

_QUERIES: Final = (
    f"SELECT {PROVIDER_COLUMNS} FROM providers ORDER BY name",  # noqa: S608 - constants
    f"SELECT {PROVIDER_KEY_COLUMNS}, value FROM provider_keys ORDER BY name, id",  # noqa: S608
    f"SELECT {MAPPING_COLUMNS} FROM mappings ORDER BY {MAPPING_ORDER}",  # noqa: S608
)


class RoutingTables:
    """One per worker: it remembers which keys it has reported as unreadable."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher
        self._reported: set[str] = set()

    def read(self) -> RoutingRecords:
        """Read everything as it is at one moment. Raises StoreError.

        A key that cannot be decrypted is left out, and logged once by its id. A key that is stored
        in plaintext is encrypted.
        """

        def work(session: Session) -> list[list[Row]]:
            for statement in session.dialect.snapshot:
                session.execute(statement)
            return [session.all(query) for query in _QUERIES]

        providers, stored_keys, mappings = self._database.run(work, readonly=True)
        keys: list[ProviderKeySecret] = []
        unreadable: list[str] = []
        for row in stored_keys:
            record = provider_key_from(row[:PROVIDER_KEY_WIDTH])
            stored: str = row[-1]
            if not self._cipher.is_encrypted(stored):
                self._encrypt_stored(record.id, stored)
            try:
                value = self._cipher.decrypt(stored, **value_cell(record.id))
            except CipherError as error:
                unreadable.append(record.id)
                if record.id not in self._reported:
                    _log.error("provider key %s is left out: %s", record.id, error)
            else:
                keys.append(ProviderKeySecret(record, value))
        self._reported = set(unreadable)
        return RoutingRecords(
            providers=tuple(map(provider_from, providers)),
            keys=tuple(keys),
            mappings=tuple(map(mapping_from, mappings)),
            unreadable_keys=tuple(unreadable),
        )

    def _encrypt_stored(self, key_id: str, plaintext: str) -> None:
        # It was inserted by hand. The comparison keeps a key that was changed meanwhile. Neither
        # updated_at nor the revision changes, for no observable value did.
        sealed = self._cipher.encrypt(plaintext, **value_cell(key_id))
        sql = "UPDATE provider_keys SET value = ? WHERE id = ? AND value = ?"
        try:
            self._database.run(lambda session: session.execute(sql, (sealed, key_id, plaintext)))
        except StoreError:
            # This worker has the key; the next read tries again.
            _log.warning("provider key %s is still stored in plaintext", key_id)
