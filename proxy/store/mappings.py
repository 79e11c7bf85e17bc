"""The mappings of aliases to models of providers: one row per target.

At most one mapping has `is_default`, which makes its alias the one for models that nothing names.
Every write bumps the revision of the routing tables, so that all workers read them again.
"""

import json
import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.core.errors import ClientError
from proxy.core.merge_patch import merge_patch
from proxy.providers.config import mapping_config
from proxy.providers.records import ROUTING_REVISION, MappingRecord
from proxy.store.audit import PendingEntry, append, record_routing, shown_fields
from proxy.store.database import Conflict, Database, Session, Value
from proxy.store.providers import require_provider
from proxy.store.revisions import bump
from proxy.store.routing_rows import clear_default, stored, update_row
from proxy.store.rows import assignments, from_micros, to_json

#: The columns that :func:`mapping_from` reads.
MAPPING_COLUMNS: Final = (
    "id, alias_name, provider_id, provider_model_name, order_index, weight, is_default, config, "
    "created_at, updated_at"
)
#: Aliases by name, the targets of each in their order.
MAPPING_ORDER: Final = "alias_name, order_index, id"
_SELECT: Final = f"SELECT {MAPPING_COLUMNS} FROM mappings"  # noqa: S608 - a constant
_INSERT: Final = f"INSERT INTO mappings ({MAPPING_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
#: The fields that :meth:`Mappings.update` may change.
_EDITABLE: Final = frozenset(
    {
        "alias_name",
        "provider_id",
        "provider_model_name",
        "order_index",
        "weight",
        "is_default",
        "config",
    }
)
#: Those that a list of targets replaces.
_REPLACED: Final = ("order_index", "weight", "is_default", "config", "updated_at")


@dataclass(frozen=True, slots=True)
class MappingTarget:
    """One target in the list of an alias, see :class:`~proxy.providers.records.MappingRecord`."""

    provider_id: str
    provider_model_name: str
    order_index: int
    weight: int = 1
    is_default: bool = False
    config: dict[str, Any] = field(default_factory=dict)


def mapping_from(row: Sequence[Any]) -> MappingRecord:
    return MappingRecord(
        id=row[0],
        alias_name=row[1],
        provider_id=row[2],
        provider_model_name=row[3],
        order_index=row[4],
        weight=row[5],
        is_default=bool(row[6]),
        config=json.loads(row[7]),
        created_at=from_micros(row[8]),
        updated_at=from_micros(row[9]),
    )


class Mappings:
    """The repository. All methods raise StoreError when the database does not respond."""

    def __init__(
        self, database: Database, file_providers: Callable[[], Container[str]] = frozenset
    ) -> None:
        """Create the repository.

        Args:
            database: Where the mappings are.
            file_providers: Returns the ids of the providers of the configuration file, which a
                mapping may point at too.
        """
        self._database = database
        self._file_providers = file_providers

    def create(
        self,
        alias_name: str,
        provider_id: str,
        provider_model_name: str,
        order_index: int = 0,
        weight: int = 1,
        *,
        is_default: bool = False,
        config: dict[str, Any] | None = None,
        audit: PendingEntry | None = None,
    ) -> MappingRecord:
        """Create a mapping. As the default, it replaces the default mapping before it.

        Raises ClientError ``invalid_request`` for a wrong `config` and when there is no such
        provider, and ``conflict`` when the alias has this target already.
        """
        mapping_id = str(uuid.uuid4())
        mapping_config(config or {})
        target = MappingTarget(
            provider_id, provider_model_name, order_index, weight, is_default, config or {}
        )

        def work(session: Session) -> MappingRecord:
            now = bump(session, ROUTING_REVISION)
            self._require(session, provider_id)
            more = clear_default(session, "mappings", mapping_id, now) if is_default else {}
            session.execute(_INSERT, _row(mapping_id, alias_name, target, now))
            made = _read(session, mapping_id)
            record_routing(session, audit, None, made, **more)
            return made

        return self._run(work)

    def get(self, mapping_id: str) -> MappingRecord:
        """Raises ClientError ``not_found`` when there is no such mapping."""
        return self._database.run(lambda session: _read(session, mapping_id), readonly=True)

    def update(
        self, mapping_id: str, changes: Mapping[str, Any], audit: PendingEntry | None = None
    ) -> MappingRecord:
        """Change the fields in `changes`. `config` is a merge patch (RFC 7396), the others replace.

        Setting `is_default` clears it at the other mapping in the same transaction. Raises
        ClientError ``not_found``, ``invalid_request`` and ``conflict`` as :meth:`create`.
        """
        if unknown := changes.keys() - _EDITABLE:
            raise ValueError(f"not a field of a mapping: {sorted(unknown)}")

        def work(session: Session) -> MappingRecord:
            now = bump(session, ROUTING_REVISION)
            before = _read(session, mapping_id)
            columns = stored(changes)
            if "config" in changes:
                config = merge_patch(before.config, changes["config"])
                mapping_config(config)
                columns["config"] = to_json(config)
            if "provider_id" in changes:
                self._require(session, changes["provider_id"])
            more = (
                clear_default(session, "mappings", mapping_id, now)
                if changes.get("is_default")
                else {}
            )
            update_row(session, "mappings", mapping_id, columns, now)
            after = _read(session, mapping_id)
            record_routing(session, audit, before, after, **more)
            return after

        return self._run(work)

    def delete(self, mapping_id: str, audit: PendingEntry | None = None) -> MappingRecord:
        """Delete a mapping. Returns what it was. Raises ClientError ``not_found``."""

        def work(session: Session) -> MappingRecord:
            bump(session, ROUTING_REVISION)
            before = _read(session, mapping_id)
            session.execute("DELETE FROM mappings WHERE id = ?", (mapping_id,))
            record_routing(session, audit, before, None)
            return before

        return self._database.run(work)

    def replace(
        self, alias_name: str, targets: Sequence[MappingTarget], audit: PendingEntry | None = None
    ) -> list[MappingRecord]:
        """Give an alias exactly these targets, in one transaction. No targets remove the alias.

        A target that stays keeps its id and the time of its creation. Returns the mappings in
        order. Raises ClientError ``invalid_request`` and ``conflict`` as :meth:`create`.
        """
        for position, target in enumerate(targets):
            mapping_config(target.config, f"[{position}].config")
        if len({_pair(target) for target in targets}) < len(targets):
            raise ClientError("Two of the targets are the same model of the same provider.")
        if sum(target.is_default for target in targets) > 1:
            raise ClientError("Only one target can have `is_default`.", param="is_default")

        def work(session: Session) -> list[MappingRecord]:
            now = bump(session, ROUTING_REVISION)
            before = _of_alias(session, alias_name)
            ids = {_pair(mapping): mapping.id for mapping in before}
            kept = set[str]()
            more = dict[str, Any]()
            for target in targets:
                self._require(session, target.provider_id)
                mapping_id = ids.get(_pair(target)) or str(uuid.uuid4())
                kept.add(mapping_id)
                if target.is_default:
                    more = clear_default(session, "mappings", mapping_id, now)
                row = _row(mapping_id, alias_name, target, now)
                if _pair(target) in ids:
                    fields = dict(zip(MAPPING_COLUMNS.split(", "), row, strict=True))
                    session.execute(
                        f"UPDATE mappings SET {assignments(_REPLACED)} WHERE id = ?",  # noqa: S608
                        (*(fields[name] for name in _REPLACED), mapping_id),
                    )
                else:
                    session.execute(_INSERT, row)
            for mapping in before:
                if mapping.id not in kept:
                    session.execute("DELETE FROM mappings WHERE id = ?", (mapping.id,))
            after = _of_alias(session, alias_name)
            if audit is not None:
                audit.details = {
                    **audit.details,
                    "alias_name": alias_name,
                    "before": [shown_fields(mapping) for mapping in before],
                    "after": [shown_fields(mapping) for mapping in after],
                    **more,
                }
                append(session, audit)
            return after

        return self._database.run(work)

    def list(
        self, alias: str | None = None, limit: int | None = None, after: str | None = None
    ) -> list[MappingRecord]:
        """Return at most `limit` mappings by alias, then order: those after the id `after`.

        Raises ClientError ``invalid_request`` when there is no mapping `after`.
        """

        def work(session: Session) -> list[MappingRecord]:
            conditions, params = list[str](), list[Value]()
            if alias is not None:
                conditions.append("alias_name = ?")
                params.append(alias)
            if after is not None:
                query = "SELECT alias_name, order_index FROM mappings WHERE id = ?"
                row = session.one(query, (after,))
                if row is None:
                    raise ClientError("There is no mapping with the id in `after`.", param="after")
                conditions.append(
                    "(alias_name > ? OR (alias_name = ? AND "
                    "(order_index > ? OR (order_index = ? AND id > ?))))"
                )
                params += [row[0], row[0], row[1], row[1], after]
            sql = _SELECT + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
            sql += f" ORDER BY {MAPPING_ORDER}"
            if limit is not None:
                sql += " LIMIT ?"
                params.append(limit)
            return [mapping_from(row) for row in session.all(sql, params)]

        return self._database.run(work, readonly=True)

    def _require(self, session: Session, provider_id: str) -> None:
        if provider_id not in self._file_providers():
            require_provider(session, provider_id)

    def _run(self, work: Callable[[Session], MappingRecord]) -> MappingRecord:
        try:
            return self._database.run(work)
        except Conflict as error:
            raise ClientError(
                "The alias has a mapping to this model of this provider already.",
                code="conflict",
                param="provider_model_name",
            ) from error


def _pair(target: MappingTarget | MappingRecord) -> tuple[str, str]:
    return target.provider_id, target.provider_model_name


def _row(mapping_id: str, alias_name: str, target: MappingTarget, now: int) -> tuple[Value, ...]:
    return (
        mapping_id,
        alias_name,
        target.provider_id,
        target.provider_model_name,
        target.order_index,
        target.weight,
        int(target.is_default),
        to_json(target.config),
        now,
        now,
    )


def _of_alias(session: Session, alias_name: str) -> list[MappingRecord]:
    sql = f"{_SELECT} WHERE alias_name = ? ORDER BY {MAPPING_ORDER}"
    return [mapping_from(row) for row in session.all(sql, (alias_name,))]


def _read(session: Session, mapping_id: str) -> MappingRecord:
    row = session.one(f"{_SELECT} WHERE id = ?", (mapping_id,))
    if row is None:
        raise ClientError("There is no mapping with this id.", code="not_found")
    return mapping_from(row)
