"""``/manage/keys``: the upstream keys of providers.

A key is never returned: every response shows the mask that is stored beside the ciphertext. A mask
that is sent back is refused, as a project's.
"""

from collections.abc import Callable
from typing import Any, Final

import flask

from proxy.core.errors import ClientError
from proxy.crypto.tokens import mask_upstream_key
from proxy.providers.fields import KEY_FIELDS, read_key, required
from proxy.providers.records import ROUTING_REVISION, ProviderKeyRecord
from proxy.providers.status import KeyStatus
from proxy.store.audit import PendingEntry
from proxy.store.key_health import KeyHealth
from proxy.web.api import fields, listing
from proxy.web.api.routing_catalog import PROVIDER_REFERENCE, RoutingCatalog
from proxy.web.api.routing_health import key_statuses, status_fields
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import json_reply

_CHANGE: Final = KEY_FIELDS | {"value"}
_CREATE: Final = _CHANGE | PROVIDER_REFERENCE
_FILTERS: Final = PROVIDER_REFERENCE | listing.PARAMETERS


def create_blueprint(
    catalog: RoutingCatalog,
    trail: AuditTrail,
    health: KeyHealth,
    *,
    announce: Callable[[str], None] = lambda _: None,
    name: str = "provider_keys",
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/keys``, which belongs behind the management guard.

    ``announce`` is called with the routing revision after each change.
    """
    blueprint = flask.Blueprint(name, __name__)

    def key_as_json(key: ProviderKeyRecord) -> dict[str, Any]:
        status = key_statuses(health, key.id).get(key.id, KeyStatus())
        return as_json(key, catalog.provider_names().get(key.provider_id), status)

    @blueprint.post("")
    @trail.audited("key.create")
    def create(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, _CREATE)
        found = _changes(body)
        required({**body, **found}, "name", "value")
        provider_id = catalog.referenced(body)
        catalog.refuse_file_entry(provider_id)
        made = catalog.stored_keys.create(provider_id, **found, audit=audit)
        announce(ROUTING_REVISION)
        return json_reply(key_as_json(made), 201)

    @blueprint.get("")
    def list_all() -> flask.Response:
        query = fields.read_query(flask.request, _FILTERS)
        chosen = catalog.referenced(query) if PROVIDER_REFERENCE & query.keys() else None
        names, statuses = catalog.provider_names(), key_statuses(health)
        return listing.list_reply(
            query,
            lambda limit, after: catalog.keys(chosen, limit, after),
            lambda key: as_json(key, names.get(key.provider_id), statuses.get(key.id, KeyStatus())),
        )

    @blueprint.get("/<key_id>")
    def get(key_id: str) -> flask.Response:
        return json_reply(key_as_json(catalog.key(fields.path_id(key_id, "key"))))

    @blueprint.patch("/<key_id>")
    @trail.audited("key.update")
    def change(key_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(key_id, "key")
        changes = _changes(fields.read_object(flask.request, _CHANGE))
        catalog.refuse_file_entry(known_id)
        if not changes:
            raise ClientError("There is no field to change.")
        changed = catalog.stored_keys.update(known_id, changes, audit)
        announce(ROUTING_REVISION)
        return json_reply(key_as_json(changed))

    @blueprint.delete("/<key_id>")
    @trail.audited("key.delete")
    def delete(key_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(key_id, "key")
        catalog.refuse_file_entry(known_id)
        catalog.stored_keys.delete(known_id, audit)
        announce(ROUTING_REVISION)
        return flask.Response(status=204)

    @blueprint.post("/<key_id>/reset")
    @trail.audited("key.reset")
    def end_cooldowns(key_id: str, audit: PendingEntry) -> flask.Response:
        key = catalog.key(fields.path_id(key_id, "key"))
        health.reset(key.id, audit)
        announce(ROUTING_REVISION)
        return json_reply(key_as_json(key))

    return blueprint


def as_json(key: ProviderKeyRecord, provider: str | None, status: KeyStatus) -> dict[str, Any]:
    """Returns a key as the API shows it. ``provider`` is the name of its provider."""
    return {
        "id": key.id,
        "provider_id": key.provider_id,
        "provider": provider,
        "name": key.name,
        "value": key.mask,
        "weight": key.weight,
        "models": list(key.models),
        "is_active": key.is_active,
        "source": key.source,
        **status_fields(status),
        "created_at": fields.rfc3339(key.created_at),
        "updated_at": fields.rfc3339(key.updated_at),
    }


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    found = read_key(body)
    if "value" in body:
        found["value"] = fields.upstream_key(body["value"], "value")
        found["mask"] = mask_upstream_key(found["value"])
    return found
