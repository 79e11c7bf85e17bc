"""A grant as text and back, for a file that only the version that wrote it has to read.

Note: the text holds the upstream key in clear, so the caller must encrypt it before storing it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from datetime import datetime
from typing import Any

from proxy.store.records import AccessToken, Grant, Project
from proxy.store.rows import from_micros, to_micros


def packed(grant: Grant) -> str:
    """Returns JSON of everything a token check needs, without a project's texts for people."""
    project = replace(grant.project, description=None, metadata={})
    return json.dumps(asdict(replace(grant, project=project)), default=to_micros)


def unpacked(text: str) -> Grant:
    """The inverse. Raises TypeError, KeyError or ValueError for text of another version."""
    stored = json.loads(text)
    return Grant(
        token=_record(AccessToken, stored["token"]),
        project=_record(Project, stored["project"]),
        upstream_key=stored["upstream_key"],
        ancestors=tuple(_record(AccessToken, each) for each in stored["ancestors"]),
    )


def _record(kind: Any, stored: Mapping[str, Any]) -> Any:
    moments = {each.name for each in fields(kind) if each.type in (datetime, datetime | None)}
    values = {
        name: from_micros(value) if name in moments and value is not None else value
        for name, value in stored.items()
    }
    return kind(**values)
