"""``/manage/tokens``: the management API of access tokens.

The secret is in exactly one response, the one to POST, and that response must not be cached. All
others carry the mask.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import flask

from proxy.core.errors import ClientError
from proxy.crypto import tokens as access_tokens
from proxy.store.audit import PendingEntry
from proxy.store.projects import Projects
from proxy.store.records import AccessToken
from proxy.store.tokens import Tokens
from proxy.web.api import fields, listing
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import json_reply

#: A year: tokens are meant to be short-lived.
MAX_MINUTES: Final = 525_600

_LIFETIMES: Final = ("duration_minutes", "duration_hours", "expires_at")
_POLICY: Final = fields.names("token")
_CREATE: Final = _POLICY | {"project_id", "name", "max_requests", *_LIFETIMES}
_CHANGE: Final = _POLICY | {"name", "is_active", "max_requests", "expires_at"}
_QUERY: Final = listing.PARAMETERS | {"project_id", "projectId", "parent_id", "active"}


def _now() -> datetime:
    return datetime.now(UTC)


def create_blueprint(
    projects: Projects,
    tokens: Tokens,
    trail: AuditTrail,
    now: Callable[[], datetime] = _now,
    *,
    announce: Callable[[str], None] = lambda _: None,
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/tokens``, which belongs behind the management guard.

    ``announce`` is called with the id of a token that was changed.
    """
    blueprint = flask.Blueprint("tokens", __name__)

    @blueprint.post("")
    @trail.audited("token.create")
    def create(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, _CREATE)
        if "project_id" not in body:
            raise ClientError("`project_id` is required.", param="project_id")
        project_id = fields.text(body["project_id"], "project_id", 100)
        expires_at = _lifetime(body, now())
        minted = access_tokens.mint()
        token = tokens.create(
            token_id=minted.token_id,
            project_id=fields.path_id(project_id, "project"),
            token_hash=minted.token_hash,
            token_mask=minted.token_mask,
            expires_at=expires_at,
            audit=audit,
            **parse_token_options(body),
        )
        # RFC 9111, 5.2.2.5: no cache on the way may keep the secret.
        return json_reply(
            {**as_json(token), "token": minted.secret},
            201,
            headers=[("Cache-Control", "no-store")],
        )

    @blueprint.get("")
    def list_all() -> flask.Response:
        query = fields.read_query(flask.request, _QUERY)
        project_id = fields.query_id(query, fields.alias(query, "project_id", "projectId"))
        parent_id = fields.query_id(query, "parent_id")
        active = fields.query_boolean(query, "active")

        def read(limit: int | None, after: str | None) -> list[AccessToken]:
            return tokens.list(project_id, active, limit, after, parent_id)

        return listing.list_reply(query, read, as_json)

    @blueprint.get("/<token_id>")
    def get(token_id: str) -> flask.Response:
        return json_reply(as_json(tokens.get(fields.path_id(token_id, "token"))))

    @blueprint.patch("/<token_id>")
    @trail.audited("token.update")
    def change(token_id: str, audit: PendingEntry) -> flask.Response:
        known_id = fields.path_id(token_id, "token")
        changes = _changes(fields.read_object(flask.request, _CHANGE), now())
        changed = tokens.update(known_id, changes, audit)
        announce(known_id)
        return json_reply(as_json(changed))

    @blueprint.delete("/<token_id>")
    @trail.audited("token.revoke")
    def revoke(token_id: str, audit: PendingEntry) -> flask.Response:
        announce(tokens.revoke(fields.path_id(token_id, "token"), audit).id)
        return flask.Response(status=204)

    @blueprint.delete("")
    @trail.audited("token.revoke")
    def revoke_by_secret(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, {"token"})
        secret = body.get("token")
        if not isinstance(secret, str) or not access_tokens.is_well_formed(secret):
            raise ClientError("`token` must be an access token, `sk-…`.", param="token")
        announce(tokens.revoke_secret(access_tokens.hash_token(secret), audit).id)
        return flask.Response(status=204)

    return blueprint


def as_json(token: AccessToken) -> dict[str, Any]:
    """Returns a token as the API shows it."""
    return {
        "id": token.id,
        "token": token.token,
        "name": token.name,
        "project_id": token.project_id,
        "parent_id": token.parent_id,
        "expires_at": fields.rfc3339(token.expires_at),
        "is_active": token.is_active,
        "revoked_at": fields.rfc3339(token.revoked_at),
        "max_requests": token.max_requests,
        **fields.policy_as_json(token.policy, "token"),
        "request_count": token.request_count,
        "tokens_used": token.tokens_used,
        "cache_hit_count": token.cache_hit_count,
        "last_used_at": fields.rfc3339(token.last_used_at),
        "created_at": fields.rfc3339(token.created_at),
    }


def parse_token_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a new token besides its lifetime, as the store takes them."""
    return {
        "name": _name(body.get("name")),
        "max_requests": _max_requests(body.get("max_requests")),
        "policy": fields.read(body, "token"),
    }


def minutes(body: Mapping[str, Any]) -> timedelta:
    """Returns ``duration_minutes``, which must be in ``body``."""
    given = fields.integer(body["duration_minutes"], "duration_minutes", 1, MAX_MINUTES)
    return timedelta(minutes=given)


def _lifetime(body: dict[str, Any], now: datetime) -> datetime:
    """Returns when the token expires, from exactly one of the three fields for it."""
    given = [param for param in _LIFETIMES if param in body]
    if len(given) != 1:
        ways = ", ".join(f"`{param}`" for param in _LIFETIMES)
        raise ClientError(f"Exactly one of {ways} is required.", param=(given or _LIFETIMES)[0])
    match given[0]:
        case "duration_minutes":
            return now + minutes(body)
        case "duration_hours" as param:
            return now + timedelta(hours=fields.integer(body[param], param, 1, MAX_MINUTES // 60))
        case _:
            return _expires_at(body["expires_at"], now)


def _expires_at(value: Any, now: datetime) -> datetime:
    expires_at = fields.parse_datetime(value, "expires_at")
    if expires_at <= now:
        raise ClientError("`expires_at` must be in the future.", param="expires_at")
    if expires_at > now + timedelta(minutes=MAX_MINUTES):
        raise ClientError(
            f"`expires_at` may be {MAX_MINUTES} minutes ahead at most.", param="expires_at"
        )
    return expires_at


def _name(value: Any) -> str | None:
    return None if value is None else fields.name(value)


def _max_requests(value: Any) -> int | None:
    """0 and null mean no limit."""
    if value is None:
        return None
    return fields.integer(value, "max_requests", 0, fields.MAX_INTEGER) or None


def _changes(body: dict[str, Any], now: datetime) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if "name" in body:
        changes["name"] = _name(body["name"])
    if "is_active" in body:
        changes["is_active"] = fields.boolean(body["is_active"], "is_active")
    if "max_requests" in body:
        changes["max_requests"] = _max_requests(body["max_requests"])
    if "expires_at" in body:
        changes["expires_at"] = _expires_at(body["expires_at"], now)
    if policy := fields.read(body, "token"):
        changes["policy"] = policy
    if not changes:
        raise ClientError("There is no field to change.")
    return changes
