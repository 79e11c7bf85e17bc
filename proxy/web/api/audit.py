"""``/manage/audit``: reads the audit log. Nothing here writes, and reading leaves no entry."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import flask

from proxy.policy.addresses import usual_spelling
from proxy.store.audit import ACTIONS, AuditEntry, AuditLog
from proxy.store.rows import to_micros
from proxy.store.session import Value
from proxy.web.api import fields
from proxy.web.api.fields import query_datetime
from proxy.web.replies import json_reply

MAX_PAGE_SIZE: Final = 200
_PAGE_SIZE: Final = 50
#: The last page that may be requested: a database counts all rows of the pages before.
_MAX_PAGE: Final = 100_000
_MAX_TEXT: Final = 255
_CHOICES: Final = {"action": ACTIONS, "outcome": ("success", "denied", "failure")}
_TEXTS: Final = ("actor", "client_ip", "request_id", "search")
_IDS: Final = ("project_id", "token_id")
_TIMES: Final = {"start_time": "start", "end_time": "end"}
_PARAMETERS: Final = frozenset({*_TEXTS, *_IDS, *_TIMES, *_CHOICES, "page", "page_size"})


def create_blueprint(log: AuditLog) -> flask.Blueprint:
    """Makes the blueprint for ``/manage/audit``, which belongs behind the management guard."""
    blueprint = flask.Blueprint("audit", __name__)

    @blueprint.get("")
    def find() -> flask.Response:
        query = fields.read_query(flask.request, _PARAMETERS)
        page = fields.query_integer(query, "page", _MAX_PAGE) or 1
        size = fields.query_integer(query, "page_size", MAX_PAGE_SIZE) or _PAGE_SIZE
        found, total = log.find(_filters(query), size, (page - 1) * size)
        pages = -(-total // size)
        return json_reply(
            {
                "events": [as_json(entry) for entry in found],
                "pagination": {
                    "page": page,
                    "page_size": size,
                    "total_items": total,
                    "total_pages": pages,
                    "has_next": page < pages,
                    "has_prev": page > 1,
                },
            }
        )

    @blueprint.get("/<entry_id>")
    def get(entry_id: str) -> flask.Response:
        return json_reply(as_json(log.get(fields.path_id(entry_id, "audit entry"))))

    return blueprint


def as_json(entry: AuditEntry) -> dict[str, Any]:
    """Returns an entry as the API shows it."""
    return {**asdict(entry), "created_at": fields.rfc3339(entry.created_at)}


def _filters(query: Mapping[str, str]) -> dict[str, Value]:
    """Returns the filters as :meth:`AuditLog.find` takes them."""
    filters: dict[str, Value] = {}
    for param in _TEXTS:
        if param in query:
            filters[param] = fields.text(query[param], param, _MAX_TEXT)
    if "client_ip" in query:
        filters["client_ip"] = usual_spelling(query["client_ip"])
    for param, options in _CHOICES.items():
        if param in query:
            filters[param] = fields.choice(query[param], param, options)
    for param in _IDS:
        if param in query:
            filters[param] = fields.query_id(query, param)
    for param, name in _TIMES.items():
        when = query_datetime(query, param)
        if when is not None:
            filters[name] = to_micros(when)
    return filters
