"""`GET /v1/models` and `GET /v1/models/{id}` of a project with providers: the proxy's own response.

Such a project has no one upstream to ask. Other methods of these paths go upstream.

Anthropic's SDKs ask at the same paths. They send `anthropic-version`, and get the list as Anthropic
writes it (https://platform.claude.com/docs/en/api/models-list), in one page.
"""

from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import unquote

import orjson

from proxy.core.errors import ClientError
from proxy.core.escapes import readings
from proxy.gateway.context import RequestContext
from proxy.policy.endpoints import ambiguous
from proxy.routing.access import RoutingAccess
from proxy.routing.model_list import ListedModel, ModelList

_LIST: Final = "/v1/models"
_ONE: Final = "/v1/models/"
#: Of the year 9999, behind which there are no dates.
_LAST_SECOND: Final = 253_402_300_799


class ModelListing:
    """Responds to requests for models."""

    def __init__(self, models: ModelList) -> None:
        self._models = models

    def is_asked_for(self, context: RequestContext) -> bool:
        """Return whether the request is for the list, or for one model of it.

        Raises ClientError ``endpoint_not_found`` for another spelling of such a path: an upstream
        may read it as the list, and would respond with models that the project may not use.
        """
        access, inbound = context.principal.routing, context.inbound
        if access is None or not access.shared or inbound.method not in ("GET", "HEAD"):
            return False
        if inbound.path == _LIST or inbound.path.startswith(_ONE):
            return True
        if _reads_as_models(inbound.path):
            raise ambiguous()
        return False

    def body(self, context: RequestContext) -> bytes:
        """Return the body of the response. May wait for upstreams that were never asked.

        Raises ClientError ``model_not_found``.
        """
        principal, path = context.principal, context.inbound.path
        access = cast(RoutingAccess, principal.routing)
        allowed, own_key = principal.policy.allows_model, principal.upstream_key
        # The shape that the client expects is chosen here, and only here.
        anthropic = context.inbound.header("ANTHROPIC-VERSION") is not None
        shape = _as_anthropic if anthropic else _as_openai
        name = unquote(path.removeprefix(_LIST).removeprefix("/"))
        if not name:
            listed = self._models.models(access, own_key, allowed)
            data = [shape(each) for each in listed]
            return orjson.dumps(_page(data) if anthropic else {"object": "list", "data": data})
        found = self._models.find(access, own_key, allowed, name)
        if found is None:
            raise ClientError(
                f"The model {name[:100]!r} does not exist, or this project may not use it: "
                "`GET /v1/models` lists those that it may use.",
                code="model_not_found",
                param="model",
            )
        return orjson.dumps(shape(found))


def _as_openai(model: ListedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
    }


def _as_anthropic(model: ListedModel) -> dict[str, Any]:
    # A time that is not known is the epoch, as in Anthropic's own list.
    created = datetime.fromtimestamp(min(max(model.created, 0), _LAST_SECOND), UTC)
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _page(data: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the only page of Anthropic's list."""
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"data": data, "has_more": False, "first_id": None, "last_id": None, **ends}


def _reads_as_models(path: str) -> bool:
    """Whether a lenient server reads the path as the list of models, or one of them."""
    *_, path = readings(path)
    segments: list[str] = []
    for segment in path.replace("\\", "/").split("/"):
        plain = segment.partition(";")[0].partition("?")[0].partition("#")[0].strip().lower()
        if plain == "..":
            del segments[-1:]
        elif plain not in ("", "."):
            segments.append(plain)
    return segments[:2] == ["v1", "models"]
