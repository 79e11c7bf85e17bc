"""``/manage/health``: the database, Redis and the providers at a glance. It asks no upstream.

The health of keys is what all workers of all nodes have reported; breakers are this worker's own.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final, Literal

import flask

from proxy.core.errors import StoreError
from proxy.providers.records import ProviderKeyRecord
from proxy.providers.status import Breakers, KeyStatus
from proxy.store.key_health import KeyHealth, KeyHealthRecord
from proxy.web.api import fields
from proxy.web.api.routing_catalog import RoutingCatalog
from proxy.web.replies import json_reply

RedisState = Literal["ok", "unavailable", "not used"]
_FINE: Final = ("ok", "not used")
#: Statuses with which an upstream refuses the key itself: unknown, unpaid, forbidden.
_KEY_REFUSED: Final = (401, 402, 403)


def create_blueprint(
    catalog: RoutingCatalog,
    keys: KeyHealth,
    breakers: Breakers,
    *,
    database: Callable[[], str],
    redis: Callable[[], RedisState],
    models_error: Callable[[str], str | None] = lambda _: None,
    name: str = "routing_health",
) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/health``, which belongs behind the management guard.

    ``database`` and ``redis`` return the states that this worker knows: `ok`, or what is wrong.
    ``models_error`` returns why the provider with this id has not given this worker its models.
    """
    blueprint = flask.Blueprint(name, __name__)

    @blueprint.get("")
    def show() -> flask.Response:
        fields.read_query(flask.request, ())
        states = {"database": database(), "redis": redis()}
        providers: list[dict[str, Any]] | None = None
        try:
            providers = _providers(catalog, key_statuses(keys), breakers, models_error)
        except StoreError:
            # The page is for such moments: it reports the rest.
            if states["database"] == "ok":
                states["database"] = "unavailable"
        ill = providers is None or any(state not in _FINE for state in states.values())
        ill = ill or any(_is_ill(provider) for provider in providers or ())
        return json_reply({"status": "degraded" if ill else "ok", **states, "providers": providers})

    return blueprint


def key_statuses(keys: KeyHealth, key_id: str | None = None) -> dict[str, KeyStatus]:
    """Returns the status of each key that was ever used, or of one, by its id."""
    now = datetime.now(UTC)
    return {
        known_id: _status(list(records), now)
        for known_id, records in groupby(keys.list(key_id), lambda record: record.key_id)
    }


def status_fields(status: KeyStatus) -> dict[str, Any]:
    """Returns the status of a key as responses show it."""
    return {
        "health": status.health,
        "cooling_until": fields.rfc3339(status.cooling_until),
        "last_status": status.last_status,
        "last_used_at": fields.rfc3339(status.last_used_at),
        "success_count": status.success_count,
        "failure_count": status.failure_count,
    }


def _status(models: list[KeyHealthRecord], now: datetime) -> KeyStatus:
    cooling = [
        model for model in models if model.cooling_until is not None and model.cooling_until > now
    ]
    used = [model for model in models if model.last_used_at is not None]
    newest = max(used, key=_last_used, default=None)
    refused = any(model.last_status in _KEY_REFUSED for model in cooling)
    return KeyStatus(
        health="failed" if refused else "cooling" if cooling else "healthy",
        cooling_until=_latest(model.cooling_until for model in cooling),
        last_status=None if newest is None else newest.last_status,
        last_used_at=None if newest is None else newest.last_used_at,
        success_count=sum(model.success_count for model in models),
        failure_count=sum(model.failure_count for model in models),
    )


def _last_used(model: KeyHealthRecord) -> datetime:
    assert model.last_used_at is not None  # noqa: S101 - chosen so
    return model.last_used_at


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in times if time is not None), default=None)


def _providers(
    catalog: RoutingCatalog,
    statuses: Mapping[str, KeyStatus],
    breakers: Breakers,
    models_error: Callable[[str], str | None],
) -> list[dict[str, Any]]:
    keys = catalog.keys()
    found = []
    for provider in catalog.providers():
        known = breakers.provider(provider.id)
        found.append(
            {
                "id": provider.id,
                "name": provider.name,
                "provider_type": provider.provider_type,
                "is_active": provider.is_active,
                "source": provider.source,
                "breaker": known.breaker,
                "error_ratio": known.error_ratio,
                "last_error": known.last_error,
                "models_error": models_error(provider.id),
                "keys": [_key(key, statuses) for key in keys if key.provider_id == provider.id],
            }
        )
    return found


def _key(key: ProviderKeyRecord, statuses: Mapping[str, KeyStatus]) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "is_active": key.is_active,
        **status_fields(statuses.get(key.id, KeyStatus())),
    }


def _is_ill(provider: dict[str, Any]) -> bool:
    """Whether requests for an active provider fail: by its breaker, or for want of a key."""
    if not provider["is_active"]:
        return False
    keys = [key for key in provider["keys"] if key["is_active"]]
    return provider["breaker"] != "closed" or (
        bool(keys) and all(key["health"] != "healthy" for key in keys)
    )
