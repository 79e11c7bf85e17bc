"""``/manage/projects``: the management API of projects.

The upstream key is never returned: every response shows the mask that is stored beside the
ciphertext. A mask that is sent back is refused, because a form filled from such a response would
otherwise overwrite the real key with it.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import flask

from proxy.core.errors import ClientError
from proxy.crypto import tokens
from proxy.policy.fields import ALL_PROVIDERS
from proxy.providers.addresses import leads_inside
from proxy.store.audit import PendingEntry
from proxy.store.projects import Projects
from proxy.store.records import Project
from proxy.store.tokens import Tokens
from proxy.web.api import fields, listing
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import json_reply

MAX_DESCRIPTION_CHARS: Final = 4096

_CREATE: Final = fields.names("project") | {
    "name",
    "api_key",
    "openai_api_key",
    "description",
    "metadata",
}
_CHANGE: Final = _CREATE | {"is_active", "revoke_tokens"}


def create_blueprint(
    projects: Projects,
    tokens: Tokens,
    trail: AuditTrail,
    *,
    announce: Callable[[str], None] = lambda _: None,
    provider_names: Callable[[], Collection[str]] = tuple,
    allow_private: bool = False,
    caches: bool = True,
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/projects``, which belongs behind the management guard.

    ``provider_names`` returns the names of all providers. ``allow_private``: whether a ``base_url``
    may lead to a private address. ``caches``: whether this node stores responses.
    ``announce`` is called with the id of a project that was changed, or whose tokens were.
    """
    blueprint = flask.Blueprint("projects", __name__)

    def changes_in(body: dict[str, Any]) -> dict[str, Any]:
        changes = _changes(body)
        policy = changes.get("policy", {})
        _check_upstreams(policy, provider_names, allow_private)
        _check_cache(policy, caches)
        return changes

    def changed(project_id: str, body: dict[str, Any], audit: PendingEntry) -> flask.Response:
        response = _change(projects, project_id, body, changes_in(body), audit)
        announce(project_id)
        return response

    @blueprint.post("")
    @trail.audited("project.create")
    def create(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, _CREATE)
        changes = changes_in(body)
        if "name" not in changes:
            raise ClientError("`name` is required.", param="name")
        return json_reply(as_json(projects.create(**changes, audit=audit)), 201)

    @blueprint.get("")
    def list_all() -> flask.Response:
        query = fields.read_query(flask.request, listing.PARAMETERS)
        return listing.list_reply(query, projects.list, as_json)

    @blueprint.get("/<project_id>")
    def get(project_id: str) -> flask.Response:
        return json_reply(as_json(projects.get(fields.path_id(project_id, "project"))))

    @blueprint.patch("/<project_id>")
    @trail.audited("project.update")
    def change(project_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(project_id, "project")
        return changed(known_id, fields.read_object(flask.request, _CHANGE), audit)

    @blueprint.patch("")
    @trail.audited("project.update")
    def change_by_body(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, _CHANGE | {"project_id"})
        return changed(_id_from(body), body, audit)

    @blueprint.delete("/<project_id>")
    @trail.audited("project.delete")
    def delete(project_id: str, audit: PendingEntry) -> flask.Response:
        announce(projects.deactivate(fields.path_id(project_id, "project"), audit).id)
        return flask.Response(status=204)

    @blueprint.delete("")
    @trail.audited("project.delete")
    def delete_by_body(audit: PendingEntry) -> flask.Response:
        known_id = _id_from(fields.read_object(flask.request, {"project_id"}))
        announce(projects.deactivate(known_id, audit).id)
        return flask.Response(status=204)

    @blueprint.post("/<project_id>/tokens/revoke")
    @trail.audited("token.revoke_batch")
    def revoke_tokens(project_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(project_id, "project")
        revoked = tokens.revoke_all(known_id, audit)
        announce(known_id)
        return json_reply(
            {
                "revoked_count": revoked.revoked_count,
                "already_revoked_count": revoked.already_revoked_count,
                "total_tokens": revoked.total_tokens,
            }
        )

    return blueprint


def as_json(project: Project) -> dict[str, Any]:
    """Returns a project as the API shows it."""
    return {
        "id": project.id,
        "name": project.name,
        "description": project.description,
        "metadata": project.metadata,
        "api_key": project.api_key or None,
        **fields.policy_as_json(project.policy, "project"),
        "is_active": project.is_active,
        "deactivated_at": fields.rfc3339(project.deactivated_at),
        "created_at": fields.rfc3339(project.created_at),
        "updated_at": fields.rfc3339(project.updated_at),
    }


def _change(
    projects: Projects,
    project_id: str,
    body: dict[str, Any],
    changes: dict[str, Any],
    audit: PendingEntry,
) -> flask.Response:
    revoke = False
    if "is_active" in body:
        changes["is_active"] = fields.boolean(body["is_active"], "is_active")
    if "revoke_tokens" in body:
        revoke = fields.boolean(body["revoke_tokens"], "revoke_tokens")
        if changes.get("is_active") is not False:
            raise ClientError(
                "`revoke_tokens` goes only with `is_active: false`.", param="revoke_tokens"
            )
    if not changes:
        raise ClientError("There is no field to change.")
    changed = projects.update(project_id, changes, revoke_tokens=revoke, audit=audit)
    return json_reply(as_json(changed))


def _changes(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields that creation and change have in common, as the store takes them."""
    changes: dict[str, Any] = {}
    if "name" in body:
        changes["name"] = fields.name(body["name"])
    if "description" in body:
        description = body["description"]
        if description is not None:
            description = fields.text(description, "description", MAX_DESCRIPTION_CHARS)
        changes["description"] = description
    if "metadata" in body:
        metadata = body["metadata"]
        changes["metadata"] = {} if metadata is None else fields.json_object(metadata, "metadata")
    if policy := fields.read(body, "project"):
        changes["policy"] = policy
    param = fields.alias(body, "api_key", "openai_api_key")
    if param in body:
        upstream_key = "" if body[param] is None else fields.upstream_key(body[param], param)
        changes["upstream_key"] = upstream_key
        mask = tokens.mask_upstream_key(upstream_key) if upstream_key else ""
        changes["upstream_key_mask"] = mask
    return changes


def _check_upstreams(
    policy: Mapping[str, Any], provider_names: Callable[[], Collection[str]], allow_private: bool
) -> None:
    """Refuses a private ``base_url`` unless it is allowed, and unknown names of providers."""
    if (url := policy.get("base_url")) and not allow_private and leads_inside(url):
        raise ClientError(
            "`base_url` leads to a private, local or metadata address, which the proxy allows only "
            "with ALLOW_PRIVATE_UPSTREAMS=on.",
            param="base_url",
        )
    if named := set(policy.get("providers") or ()) - {ALL_PROVIDERS}:
        for unknown in sorted(named.difference(provider_names())):
            raise ClientError(f"There is no provider with the name {unknown!r}.", param="providers")


def _check_cache(policy: Mapping[str, Any], caches: bool) -> None:
    if not caches and policy.get("cache") not in (None, "off"):
        raise ClientError(
            "`cache` needs CACHE_TTL, the time for which responses are stored, and this node has "
            "none: set it, such as CACHE_TTL=5m, or leave `cache` off.",
            param="cache",
        )


def _id_from(body: dict[str, Any]) -> str:
    if "project_id" not in body:
        raise ClientError("`project_id` is required.", param="project_id")
    return fields.path_id(fields.text(body["project_id"], "project_id", 100), "project")
