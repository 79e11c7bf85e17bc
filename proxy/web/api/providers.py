"""``/manage/providers``: services with models, which projects may share.

Workers read providers, keys and mappings as one, so every change of any of them is announced as a
change of the routing revision.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flask

from proxy.core.errors import ClientError
from proxy.providers.fields import PROVIDER_FIELDS, read_provider, required
from proxy.providers.records import ROUTING_REVISION, ProviderRecord
from proxy.providers.status import Breakers, KeyTest
from proxy.store.audit import PendingEntry
from proxy.web.api import fields, listing
from proxy.web.api.routing_catalog import RoutingCatalog
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import json_reply


def create_blueprint(
    catalog: RoutingCatalog,
    trail: AuditTrail,
    breakers: Breakers,
    test: Callable[[ProviderRecord], Sequence[KeyTest]],
    *,
    announce: Callable[[str], None] = lambda _: None,
    name: str = "providers",
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/providers``, which belongs behind the management guard.

    ``test`` asks the upstream of a provider for its models, once with each of its keys.
    ``announce`` is called with the routing revision after each change.
    """
    blueprint = flask.Blueprint(name, __name__)

    def provider_as_json(provider: ProviderRecord, keys_count: int) -> dict[str, Any]:
        return as_json(provider, keys_count, breakers)

    def shown_alone(provider: ProviderRecord) -> dict[str, Any]:
        return provider_as_json(provider, len(catalog.keys(provider.id)))

    @blueprint.post("")
    @trail.audited("provider.create")
    def create(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, PROVIDER_FIELDS)
        found = _changes(body)
        required(found, "name", "provider_type", "base_url")
        catalog.refuse_file_name(found["name"])
        made = catalog.stored_providers.create(**found, audit=audit)
        announce(ROUTING_REVISION)
        return json_reply(provider_as_json(made, 0), 201)

    @blueprint.get("")
    def list_all() -> flask.Response:
        query = fields.read_query(flask.request, listing.PARAMETERS)
        counts = catalog.key_counts()
        return listing.list_reply(
            query,
            catalog.providers,
            lambda provider: provider_as_json(provider, counts[provider.id]),
        )

    @blueprint.get("/<provider_id>")
    def get(provider_id: str) -> flask.Response:
        return json_reply(shown_alone(catalog.provider(fields.path_id(provider_id, "provider"))))

    @blueprint.patch("/<provider_id>")
    @trail.audited("provider.update")
    def change(provider_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(provider_id, "provider")
        changes = _changes(fields.read_object(flask.request, PROVIDER_FIELDS))
        catalog.refuse_file_entry(known_id)
        if not changes:
            raise ClientError("There is no field to change.")
        if "name" in changes:
            catalog.refuse_file_name(changes["name"])
        changed = catalog.stored_providers.update(known_id, changes, audit)
        announce(ROUTING_REVISION)
        return json_reply(shown_alone(changed))

    @blueprint.delete("/<provider_id>")
    @trail.audited("provider.delete")
    def delete(provider_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(provider_id, "provider")
        catalog.refuse_file_entry(known_id)
        catalog.refuse_provider_of_file_mappings(known_id)
        catalog.stored_providers.delete(known_id, audit)
        announce(ROUTING_REVISION)
        return flask.Response(status=204)

    @blueprint.post("/<provider_id>/test")
    def test_keys(provider_id: str) -> flask.Response:
        provider = catalog.provider(fields.path_id(provider_id, "provider"))
        return json_reply(
            {
                "provider_id": provider.id,
                "results": [
                    {
                        "key_id": result.key_id,
                        "name": result.name,
                        "ok": result.ok,
                        "status": result.status,
                        "duration_ms": result.duration_ms,
                        "models_count": result.models_count,
                        "error": result.error,
                    }
                    for result in test(provider)
                ],
            }
        )

    return blueprint


def as_json(provider: ProviderRecord, keys_count: int, breakers: Breakers) -> dict[str, Any]:
    """Returns a provider as the API shows it."""
    return {
        "id": provider.id,
        "name": provider.name,
        "provider_type": provider.provider_type,
        "base_url": provider.base_url,
        "config": provider.config,
        "is_active": provider.is_active,
        "is_default": provider.is_default,
        "source": provider.source,
        "keys_count": keys_count,
        "breaker": breakers.provider(provider.id).breaker,
        "created_at": fields.rfc3339(provider.created_at),
        "updated_at": fields.rfc3339(provider.updated_at),
    }


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    if "config" in body:
        fields.json_object(body["config"], "config")
    return read_provider(body)
