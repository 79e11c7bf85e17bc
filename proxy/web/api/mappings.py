"""``/manage/mappings``: which models an alias stands for, in the order in which they are tried."""

from collections.abc import Callable
from typing import Any, Final

import flask

from proxy.core.errors import ClientError
from proxy.providers.fields import MAPPING_FIELDS, alias_name, read_mapping, required
from proxy.providers.records import ROUTING_REVISION, MappingRecord
from proxy.store.audit import PendingEntry
from proxy.store.mappings import MappingTarget
from proxy.web.api import fields, listing
from proxy.web.api.routing_catalog import PROVIDER_REFERENCE, RoutingCatalog
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import json_reply

#: Targets of one alias.
MAX_TARGETS: Final = 100

_ALL: Final = MAPPING_FIELDS | PROVIDER_REFERENCE
_FILTERS: Final = PROVIDER_REFERENCE | listing.PARAMETERS | {"alias", "alias_name"}


def create_blueprint(
    catalog: RoutingCatalog,
    trail: AuditTrail,
    *,
    announce: Callable[[str], None] = lambda _: None,
    name: str = "mappings",
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/mappings``, which belongs behind the management guard.

    ``announce`` is called with the routing revision after each change.
    """
    blueprint = flask.Blueprint(name, __name__)

    def mapping_as_json(mapping: MappingRecord) -> dict[str, Any]:
        return as_json(mapping, catalog.provider_names().get(mapping.provider_id))

    @blueprint.post("")
    @trail.audited("mapping.create")
    def create(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, _ALL)
        found = _changes(body)
        required(found, "alias_name", "provider_model_name")
        found["provider_id"] = catalog.referenced(body)
        catalog.refuse_file_alias(found["alias_name"])
        made = catalog.stored_mappings.create(**found, audit=audit)
        announce(ROUTING_REVISION)
        return json_reply(mapping_as_json(made), 201)

    @blueprint.get("")
    def list_all() -> flask.Response:
        query = fields.read_query(flask.request, _FILTERS)
        alias = query.get(fields.alias(query, "alias", "alias_name"))
        chosen = catalog.referenced(query) if PROVIDER_REFERENCE & query.keys() else None
        names = catalog.provider_names()
        return listing.list_reply(
            query,
            lambda limit, after: catalog.mappings(alias, chosen, limit, after),
            lambda mapping: as_json(mapping, names.get(mapping.provider_id)),
        )

    @blueprint.get("/<mapping_id>")
    def get(mapping_id: str) -> flask.Response:
        return json_reply(mapping_as_json(catalog.mapping(fields.path_id(mapping_id, "mapping"))))

    @blueprint.patch("/<mapping_id>")
    @trail.audited("mapping.update")
    def change(mapping_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(mapping_id, "mapping")
        body = fields.read_object(flask.request, _ALL)
        changes = _changes(body)
        catalog.refuse_file_entry(known_id)
        if PROVIDER_REFERENCE & body.keys():
            changes["provider_id"] = catalog.referenced(body)
        if "alias_name" in changes:
            catalog.refuse_file_alias(changes["alias_name"])
        if not changes:
            raise ClientError("There is no field to change.")
        changed = catalog.stored_mappings.update(known_id, changes, audit)
        announce(ROUTING_REVISION)
        return json_reply(mapping_as_json(changed))

    @blueprint.delete("/<mapping_id>")
    @trail.audited("mapping.delete")
    def delete(mapping_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(mapping_id, "mapping")
        catalog.refuse_file_entry(known_id)
        catalog.stored_mappings.delete(known_id, audit)
        announce(ROUTING_REVISION)
        return flask.Response(status=204)

    # An alias may contain `/`.
    @blueprint.put("/<path:alias>")
    @trail.audited("mapping.replace")
    def replace(alias: str, audit: PendingEntry) -> flask.Response:
        known_alias = alias_name("alias_name", alias)
        bodies = fields.read_objects(flask.request, _ALL, MAX_TARGETS)
        catalog.refuse_file_alias(known_alias)
        targets = [_target(catalog, body, place, known_alias) for place, body in enumerate(bodies)]
        replaced = catalog.stored_mappings.replace(known_alias, targets, audit)
        announce(ROUTING_REVISION)
        names = catalog.provider_names()
        return json_reply(
            [as_json(mapping, names.get(mapping.provider_id)) for mapping in replaced]
        )

    return blueprint


def as_json(mapping: MappingRecord, provider: str | None) -> dict[str, Any]:
    """Returns a mapping as the API shows it. ``provider`` is the name of its provider.

    It is None where the configuration file no longer has that provider.
    """
    return {
        "id": mapping.id,
        "alias_name": mapping.alias_name,
        "provider_id": mapping.provider_id,
        "provider": provider,
        "provider_model_name": mapping.provider_model_name,
        "order_index": mapping.order_index,
        "weight": mapping.weight,
        "is_default": mapping.is_default,
        "config": mapping.config,
        "source": mapping.source,
        "created_at": fields.rfc3339(mapping.created_at),
        "updated_at": fields.rfc3339(mapping.updated_at),
    }


def _target(catalog: RoutingCatalog, body: dict[str, Any], place: int, alias: str) -> MappingTarget:
    """Returns a target of the list that replaces those of ``alias``. Its order is its place."""
    found = _changes(body)
    if found.pop("alias_name", alias) != alias:
        raise ClientError("`alias_name` differs from the alias in the path.", param="alias_name")
    required(found, "provider_model_name")
    return MappingTarget(provider_id=catalog.referenced(body), **{"order_index": place, **found})


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    if "config" in body:
        fields.json_object(body["config"], "config")
    return read_mapping(body)
