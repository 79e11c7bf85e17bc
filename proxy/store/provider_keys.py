"""The upstream keys of providers, each encrypted for its own cell and stored beside its mask.

Every write bumps the revision of the routing tables, so that all workers read them again.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.crypto.cipher import Cipher
from proxy.providers.records import ROUTING_REVISION, ProviderKeyRecord
from proxy.store.audit import PendingEntry, record_routing
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.key_health import end_cooldowns
from proxy.store.providers import require_provider
from proxy.store.revisions import bump
from proxy.store.routing_rows import stored, update_row
from proxy.store.rows import from_micros

#: The columns that :func:`provider_key_from` reads.
PROVIDER_KEY_COLUMNS: Final = (
    "id, provider_id, name, mask, weight, models, is_active, created_at, updated_at"
)
PROVIDER_KEY_WIDTH: Final = 9
_SELECT: Final = f"SELECT {PROVIDER_KEY_COLUMNS} FROM provider_keys"  # noqa: S608 - a constant
#: The fields that :meth:`ProviderKeys.update` may change.
_EDITABLE: Final = frozenset({"name", "value", "mask", "weight", "models", "is_active"})


def provider_key_from(row: Sequence[Any]) -> ProviderKeyRecord:
    return ProviderKeyRecord(
        id=row[0],
        provider_id=row[1],
        name=row[2],
        mask=row[3],
        weight=row[4],
        models=tuple(json.loads(row[5])),
        is_active=bool(row[6]),
        created_at=from_micros(row[7]),
        updated_at=from_micros(row[8]),
    )


def value_cell(key_id: str) -> dict[str, str]:
    """The cell that the ciphertext of a provider key is bound to."""
    return {"table": "provider_keys", "column": "value", "row_id": key_id}


class ProviderKeys:
    """The repository. All methods raise StoreError when the database does not respond."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._database = database
        self._cipher = cipher

    def create(
        self,
        provider_id: str,
        name: str,
        value: str,
        mask: str,
        weight: int = 1,
        models: Sequence[str] = (),
        *,
        is_active: bool = True,
        audit: PendingEntry | None = None,
    ) -> ProviderKeyRecord:
        """Create a key. `value` is in clear; `models` are globs of the upstream's model names.

        Raises ClientError ``invalid_request`` when there is no such provider, and ``conflict`` when
        the provider has a key with this name.
        """
        key_id = str(uuid.uuid4())
        sealed = self._cipher.encrypt(value, **value_cell(key_id))

        def work(session: Session) -> ProviderKeyRecord:
            now = bump(session, ROUTING_REVISION)
            require_provider(session, provider_id)
            session.execute(
                f"INSERT INTO provider_keys ({PROVIDER_KEY_COLUMNS}, value) "  # noqa: S608
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key_id,
                    provider_id,
                    name,
                    mask,
                    weight,
                    _models(models),
                    int(is_active),
                    now,
                    now,
                    sealed,
                ),
            )
            made = _read(session, key_id)
            record_routing(session, audit, None, made)
            return made

        return self._run(work, name)

    def get(self, key_id: str) -> ProviderKeyRecord:
        """Raises ClientError ``not_found`` when there is no such key."""
        return self._database.run(lambda session: _read(session, key_id), readonly=True)

    def update(
        self, key_id: str, changes: Mapping[str, Any], audit: PendingEntry | None = None
    ) -> ProviderKeyRecord:
        """Change the fields in `changes`. A new `value` comes with its `mask` and keeps the id.

        It also ends the cooldowns of the old one, on all nodes.

        Raises ClientError ``not_found``, and ``conflict`` when the name is taken.
        """
        if unknown := changes.keys() - _EDITABLE:
            raise ValueError(f"not a field of a provider key: {sorted(unknown)}")
        if ("value" in changes) != ("mask" in changes):
            raise ValueError("a provider key and its mask change together")
        columns = stored(changes)
        if "value" in changes:
            columns["value"] = self._cipher.encrypt(changes["value"], **value_cell(key_id))
        if "models" in changes:
            columns["models"] = _models(changes["models"])

        def work(session: Session) -> ProviderKeyRecord:
            now = bump(session, ROUTING_REVISION)
            before = _read(session, key_id)
            update_row(session, "provider_keys", key_id, columns, now)
            if "value" in changes:
                end_cooldowns(session, key_id)  # they were those of the old value
            after = _read(session, key_id)
            replaced = ("mask",) if "value" in changes else ()
            record_routing(session, audit, before, after, replaced=replaced)
            return after

        return self._run(work, changes.get("name"))

    def delete(self, key_id: str, audit: PendingEntry | None = None) -> ProviderKeyRecord:
        """Delete a key with its health. Returns what it was. Raises ClientError ``not_found``."""

        def work(session: Session) -> ProviderKeyRecord:
            bump(session, ROUTING_REVISION)
            before = _read(session, key_id)
            session.execute("DELETE FROM provider_key_health WHERE key_id = ?", (key_id,))
            session.execute("DELETE FROM provider_keys WHERE id = ?", (key_id,))
            record_routing(session, audit, before, None)
            return before

        return self._database.run(work)

    def list(
        self, provider_id: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[ProviderKeyRecord]:
        """Return at most `limit` keys by name, then id: those after the one with the id `after`.

        Raises ClientError ``invalid_request`` when there is no key `after`.
        """

        def work(session: Session) -> list[ProviderKeyRecord]:
            conditions, params = list[str](), list[Value]()
            if provider_id is not None:
                conditions.append("provider_id = ?")
                params.append(provider_id)
            if after is not None:
                row = session.one("SELECT name FROM provider_keys WHERE id = ?", (after,))
                if row is None:
                    raise ClientError("There is no key with the id in `after`.", param="after")
                conditions.append("(name > ? OR (name = ? AND id > ?))")
                params += [row[0], row[0], after]
            sql = _SELECT + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
            sql += " ORDER BY name, id"
            if limit is not None:
                sql += " LIMIT ?"
                params.append(limit)
            return [provider_key_from(row) for row in session.all(sql, params)]

        return self._database.run(work, readonly=True)

    def _run(self, work: Any, name: str | None) -> ProviderKeyRecord:
        try:
            key: ProviderKeyRecord = self._database.run(work)
        except Conflict as error:
            raise ClientError(
                f"The provider has a key with the name {name!r} already.",
                code="conflict",
                param="name",
            ) from error
        return key


def _models(models: Sequence[str]) -> str:
    return json.dumps(list(models), separators=(",", ":"))


def _read(session: Session, key_id: str) -> ProviderKeyRecord:
    row = session.one(f"{_SELECT} WHERE id = ?", (key_id,))
    if row is None:
        raise ClientError("There is no key with this id.", code="not_found")
    return provider_key_from(row)
