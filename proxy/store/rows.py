"""Conversion of rows to records and back: times, JSON, and the columns of each record in order.

A column list and its reader belong together: a new column is added to both, at the same position.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from proxy.store.records import AccessToken, Project

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

#: The columns that :func:`project_from` reads. The ``p.`` allows a join.
PROJECT_COLUMNS: Final = (
    "p.id, p.name, p.description, p.metadata, p.policy, p.upstream_key_mask, p.is_active, "
    "p.deactivated_at, p.created_at, p.updated_at, p.cache_epoch"
)
PROJECT_WIDTH: Final = 11

#: The columns that :func:`token_from` reads.
TOKEN_COLUMNS: Final = (
    "t.id, t.token_mask, t.name, t.project_id, t.expires_at, t.is_active, t.revoked_at, "  # noqa: S105
    "t.max_requests, t.policy, t.request_count, t.cache_hit_count, t.last_used_at, t.created_at, "
    "t.updated_at, t.parent_id, t.tokens_used"
)
TOKEN_WIDTH: Final = 16


def to_micros(moment: datetime) -> int:
    """Returns exact microseconds since the epoch. Raises ValueError for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone is not a moment")
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The inverse of :func:`to_micros`, in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def _optional(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def to_json(metadata: dict[str, Any] | None) -> str:
    return json.dumps(metadata or {}, separators=(",", ":"))


def merged_policy(policy: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``policy`` with ``changes`` applied field by field. None removes a field."""
    return {field: value for field, value in {**policy, **changes}.items() if value is not None}


def policy_to_json(policy: Mapping[str, Any]) -> str | None:
    """Returns the stored form, in which an empty policy is NULL."""
    return json.dumps(policy, separators=(",", ":")) if policy else None


def changed_policy(policy: Mapping[str, Any], changes: Mapping[str, Any]) -> str | None:
    """Returns the stored form of :func:`merged_policy`."""
    return policy_to_json(merged_policy(policy, changes))


def policy_from(stored: str | None) -> dict[str, Any]:
    """The inverse of :func:`policy_to_json`."""
    policy: dict[str, Any] = {} if stored is None else json.loads(stored)
    return policy


def assignments(columns: Iterable[str]) -> str:
    """Returns ``"a = ?, b = ?"``. Only for columns from a fixed table, never from a request."""
    return ", ".join(f"{column} = ?" for column in columns)


def project_from(row: Sequence[Any]) -> Project:
    return Project(
        id=row[0],
        name=row[1],
        description=row[2],
        metadata=json.loads(row[3]),
        policy=policy_from(row[4]),
        api_key=row[5],
        is_active=bool(row[6]),
        deactivated_at=_optional(row[7]),
        created_at=from_micros(row[8]),
        updated_at=from_micros(row[9]),
        cache_epoch=row[10],
    )


def token_from(row: Sequence[Any]) -> AccessToken:
    return AccessToken(
        id=row[0],
        token=row[1],
        name=row[2],
        project_id=row[3],
        expires_at=from_micros(row[4]),
        is_active=bool(row[5]),
        revoked_at=_optional(row[6]),
        max_requests=row[7],
        policy=policy_from(row[8]),
        request_count=row[9],
        cache_hit_count=row[10],
        last_used_at=_optional(row[11]),
        created_at=from_micros(row[12]),
        updated_at=from_micros(row[13]),
        parent_id=row[14],
        tokens_used=row[15],
    )
