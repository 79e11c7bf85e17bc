"""``/manage/cache`` and ``DELETE /cache``: the response cache for people, without its content.

A purge is felt on every node: that of a whole project by a new cache epoch, any other by the log
of purges, which each node follows. The node that responds has applied it when it responds.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import flask

from proxy.cache.backends.base import EntryFacts, StoreFigures
from proxy.cache.purge_follower import selection_of
from proxy.cache.response_cache import CacheFigures, ResponseCache
from proxy.core.errors import BackendError, ClientError
from proxy.store.audit import PendingEntry
from proxy.store.cache_purges import PURGES_REVISION, CachePurges, Purge
from proxy.store.projects import Projects
from proxy.web.api import fields
from proxy.web.audit_trail import AuditTrail
from proxy.web.replies import json_reply

_MAX_TARGET_CHARS: Final = 8192
_FIELDS: Final = ("project_id", "method", "url", "prefix", "key")
#: Of these one at most.
_PLACES: Final = ("url", "prefix", "key")
_METHOD: Final = re.compile(r"[A-Z]{1,32}", re.ASCII)
_KEY: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Purging:
    """What a purge needs.

    `open_cache` returns the cache of this worker, or None where the node has none, or cannot open
    it now. `announce` is called with the id of what has changed.
    """

    projects: Projects
    purges: CachePurges
    open_cache: Callable[[], ResponseCache | None]
    announce: Callable[[str], None]

    def purge(self, purge: Purge, audit: PendingEntry) -> int:
        """Purge everywhere. Returns how many entries of this node, and of the Redis that nodes
        share, can no longer be hit.

        Raises ClientError ``not_found``, StoreError, and BackendError when a store of responses
        does not respond; the other stores have been purged then.
        """
        if purge.project_id is not None:
            self.projects.get(purge.project_id)
        deleted, failure = 0, None
        # Here first, before any other worker of this node hears of it: so the number is right.
        try:
            deleted = self._purge_here(purge)
        except BackendError as error:
            failure = error
        if purge.project_id is not None and purge == Purge(project_id=purge.project_id):
            self.projects.purge_responses(purge.project_id, audit)
            self.announce(purge.project_id)
        else:
            self.purges.add(purge, audit)
            self.announce(PURGES_REVISION)
        if failure is not None:
            raise failure
        return deleted

    def _purge_here(self, purge: Purge) -> int:
        cache = self.open_cache()
        return 0 if cache is None else cache.purge(selection_of(purge))


def create_blueprint(purging: Purging, trail: AuditTrail, ttl: float) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/cache``, which belongs behind the management guard.

    ``ttl`` is `CACHE_TTL` in seconds.
    """
    blueprint = flask.Blueprint("cache", __name__)

    @blueprint.get("")
    def figures() -> flask.Response:
        fields.read_query(flask.request, ())
        cache = purging.open_cache()
        found = CacheFigures() if cache is None else cache.figures()
        return json_reply({"ttl": ttl, **_shown(found)})

    @blueprint.post("/purge")
    @trail.audited("cache.purge")
    def purge(audit: PendingEntry) -> flask.Response:
        body = fields.read_object(flask.request, _FIELDS)
        return json_reply({"deleted": purging.purge(_purge(body), audit)})

    return blueprint


def create_flush_blueprint(purging: Purging, trail: AuditTrail) -> flask.Blueprint:
    """Makes the blueprint for ``DELETE /cache``, which belongs behind the management guard."""
    blueprint = flask.Blueprint("cache_flush", __name__)

    @blueprint.delete("/cache")
    @trail.audited("cache.purge")
    def flush(audit: PendingEntry) -> flask.Response:
        fields.read_query(flask.request, ())
        deleted = purging.purge(Purge(), audit)
        return json_reply({"message": "The cache is empty.", "deleted": deleted})

    return blueprint


def _purge(body: dict[str, Any]) -> Purge:
    given = {name: value for name, value in body.items() if value is not None}
    if not given:
        raise ClientError(
            "Name what to purge: `project_id`, `method`, and one of `url`, `prefix` and `key`. "
            "DELETE /cache purges everything."
        )
    places = [name for name in _PLACES if name in given]
    if len(places) > 1:
        raise ClientError("Only one of `url`, `prefix` and `key` may be given.", param=places[1])
    project_id, method, key = given.get("project_id"), given.get("method"), given.get("key")
    if project_id is not None:
        project_id = fields.path_id(fields.text(project_id, "project_id", 100), "project")
    if method is not None and not _METHOD.fullmatch(
        method := fields.text(method, "method", 32).upper()
    ):
        raise ClientError("`method` must be an HTTP method, such as POST.", param="method")
    if key is not None and not _KEY.fullmatch(key := fields.text(key, "key", 64).lower()):
        raise ClientError(
            "`key` must be the 16 hexadecimal digits of an X-Cache-Key header.", param="key"
        )
    return Purge(
        project_id=project_id,
        method=method,
        target=_target(given, "url"),
        prefix=_target(given, "prefix"),
        key=key,
    )


def _target(given: dict[str, Any], param: str) -> str | None:
    if param not in given:
        return None
    target = fields.text(given[param], param, _MAX_TARGET_CHARS)
    if not target.startswith("/"):
        raise ClientError(
            f"`{param}` must be a request target as clients send it, such as /v1/models: with its "
            "query, without scheme and host.",
            param=param,
        )
    return target


def _shown(figures: CacheFigures) -> dict[str, Any]:
    node = figures.node
    return {
        **_sums(node),
        "evictions": node.evictions,
        "rejected": node.rejected,
        "errors": figures.errors,
        "largest": [_entry(each) for each in node.largest],
        "most_hit": [_entry(each) for each in node.most_hit],
        # The Redis that the nodes share.
        "shared": None if figures.shared is None else _sums(figures.shared),
    }


def _sums(figures: StoreFigures) -> dict[str, Any]:
    return {
        "item_count": figures.items,
        "bytes": figures.bytes,
        "limit_bytes": figures.limit,
        "hits": figures.hits,
        "misses": figures.misses,
    }


def _entry(facts: EntryFacts) -> dict[str, Any]:
    project_id, _, token_id = facts.scope.partition(":")
    return {
        "key": facts.name,
        "project_id": project_id or None,
        "token_id": token_id or None,
        "method": facts.method,
        "path": facts.path,
        "bytes": facts.size,
        "hits": facts.hits,
        "stored_at": _moment(facts.stored_at),
        "expires_at": _moment(facts.expires_at),
    }


def _moment(unix_seconds: float) -> str | None:
    return fields.rfc3339(datetime.fromtimestamp(unix_seconds, UTC))
