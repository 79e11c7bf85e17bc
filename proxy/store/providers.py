"""The providers of the database. Those of the configuration file never come here.

Every write bumps the revision of the routing tables, so that all workers read them again.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.core.merge_patch import merge_patch
from proxy.providers.fields import check_provider
from proxy.providers.records import ROUTING_REVISION, ProviderRecord
from proxy.store.audit import PendingEntry, record_routing, shown_fields
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.revisions import bump
from proxy.store.routing_rows import clear_default, stored, update_row
from proxy.store.rows import from_micros, to_json

#: The columns that :func:`provider_from` reads.
PROVIDER_COLUMNS: Final = (
    "id, name, provider_type, base_url, config, is_active, is_default, created_at, updated_at"
)
_SELECT: Final = f"SELECT {PROVIDER_COLUMNS} FROM providers"  # noqa: S608 - a constant
#: The fields that :meth:`Providers.update` may change.
_EDITABLE: Final = frozenset(
    {"name", "provider_type", "base_url", "config", "is_active", "is_default"}
)
#: Aliases in one message.
_ALIASES_SHOWN: Final = 10


def provider_from(row: Sequence[Any]) -> ProviderRecord:
    return ProviderRecord(
        id=row[0],
        name=row[1],
        provider_type=row[2],
        base_url=row[3],
        config=json.loads(row[4]),
        is_active=bool(row[5]),
        is_default=bool(row[6]),
        created_at=from_micros(row[7]),
        updated_at=from_micros(row[8]),
    )


class Providers:
    """The repository. All methods raise StoreError when the database does not respond."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        provider_type: str,
        base_url: str,
        config: dict[str, Any] | None = None,
        *,
        is_active: bool = True,
        is_default: bool = False,
        audit: PendingEntry | None = None,
    ) -> ProviderRecord:
        """Create a provider. As the default, it replaces the default provider before it.

        Raises ClientError ``invalid_request`` for a `config` that does not fit the type and for a
        private `base_url` that it does not allow, and ``conflict`` when the name is taken.
        """
        provider_id = str(uuid.uuid4())
        check_provider(
            {"provider_type": provider_type, "base_url": base_url, "config": config or {}}
        )
        document = to_json(config)

        def work(session: Session) -> ProviderRecord:
            now = bump(session, ROUTING_REVISION)
            more = clear_default(session, "providers", provider_id, now) if is_default else {}
            session.execute(
                f"INSERT INTO providers ({PROVIDER_COLUMNS}) "  # noqa: S608 - a constant
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    provider_id,
                    name,
                    provider_type,
                    base_url,
                    document,
                    int(is_active),
                    int(is_default),
                    now,
                    now,
                ),
            )
            made = _read(session, provider_id)
            record_routing(session, audit, None, made, **more)
            return made

        return self._run(work, name)

    def get(self, provider_id: str) -> ProviderRecord:
        """Raises ClientError ``not_found`` when there is no such provider."""
        return self._database.run(lambda session: _read(session, provider_id), readonly=True)

    def update(
        self, provider_id: str, changes: Mapping[str, Any], audit: PendingEntry | None = None
    ) -> ProviderRecord:
        """Change the fields in `changes`. `config` is a merge patch (RFC 7396), the others replace.

        Setting `is_default` clears it at the other provider in the same transaction. Raises
        ClientError ``not_found``, and what :meth:`create` does for the provider as changed.
        """
        if unknown := changes.keys() - _EDITABLE:
            raise ValueError(f"not a field of a provider: {sorted(unknown)}")

        def work(session: Session) -> ProviderRecord:
            now = bump(session, ROUTING_REVISION)
            before = _read(session, provider_id)
            columns = stored(changes)
            config = before.config
            if "config" in changes:
                config = merge_patch(config, changes["config"])
                columns["config"] = to_json(config)
            check_provider({**shown_fields(before), **changes, "config": config})
            more = (
                clear_default(session, "providers", provider_id, now)
                if changes.get("is_default")
                else {}
            )
            update_row(session, "providers", provider_id, columns, now)
            after = _read(session, provider_id)
            record_routing(session, audit, before, after, **more)
            return after

        return self._run(work, changes.get("name"))

    def delete(self, provider_id: str, audit: PendingEntry | None = None) -> ProviderRecord:
        """Delete a provider with its keys. Returns what it was.

        Raises ClientError ``not_found``, and ``conflict`` when mappings use it: it names them.
        """

        def work(session: Session) -> ProviderRecord:
            bump(session, ROUTING_REVISION)
            before = _read(session, provider_id)
            aliases = session.all(
                "SELECT DISTINCT alias_name FROM mappings WHERE provider_id = ? "
                "ORDER BY alias_name LIMIT ?",
                (provider_id, _ALIASES_SHOWN + 1),
            )
            if aliases:
                shown = [f"`{row[0]}`" for row in aliases[:_ALIASES_SHOWN]]
                shown += ["…"] * (len(aliases) > _ALIASES_SHOWN)
                raise ClientError(
                    f"Mappings use this provider: {', '.join(shown)}. Delete or change them first.",
                    code="conflict",
                )
            keys = "SELECT id FROM provider_keys WHERE provider_id = ?"
            session.execute(
                f"DELETE FROM provider_key_health WHERE key_id IN ({keys})",  # noqa: S608
                (provider_id,),
            )
            count = session.execute(
                "DELETE FROM provider_keys WHERE provider_id = ?", (provider_id,)
            )
            session.execute("DELETE FROM providers WHERE id = ?", (provider_id,))
            record_routing(session, audit, before, None, deleted_keys=count)
            return before

        return self._database.run(work)

    def list(self, limit: int | None = None, after: str | None = None) -> list[ProviderRecord]:
        """Return at most `limit` providers by name: those after the one with the id `after`.

        Raises ClientError ``invalid_request`` when there is no provider `after`.
        """

        def work(session: Session) -> list[ProviderRecord]:
            sql, params = _SELECT, list[Value]()
            if after is not None:
                row = session.one("SELECT name FROM providers WHERE id = ?", (after,))
                if row is None:
                    raise ClientError("There is no provider with the id in `after`.", param="after")
                sql += " WHERE name > ?"
                params.append(row[0])
            sql += " ORDER BY name"
            if limit is not None:
                sql += " LIMIT ?"
                params.append(limit)
            return [provider_from(row) for row in session.all(sql, params)]

        return self._database.run(work, readonly=True)

    def _run(self, work: Any, name: str | None) -> ProviderRecord:
        try:
            provider: ProviderRecord = self._database.run(work)
        except Conflict as error:
            raise ClientError(
                f"There is a provider with the name {name!r} already.",
                code="conflict",
                param="name",
            ) from error
        return provider


def require_provider(session: Session, provider_id: str) -> None:
    """Raises ClientError ``invalid_request`` when there is no such provider."""
    if session.one("SELECT 1 FROM providers WHERE id = ?", (provider_id,)) is None:
        raise ClientError("There is no provider with this id.", param="provider_id")


def _read(session: Session, provider_id: str) -> ProviderRecord:
    row = session.one(f"{_SELECT} WHERE id = ?", (provider_id,))
    if row is None:
        raise ClientError("There is no provider with this id.", code="not_found")
    return provider_from(row)
