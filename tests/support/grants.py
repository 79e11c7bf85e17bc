"""A store of one access token, for the tests of the token check."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from proxy.crypto import tokens
from proxy.store.records import AccessToken, Grant, Project

SECRET = "sk-JHjWabcdefghijklmnfQIZ"
START = datetime(2030, 1, 1, tzinfo=UTC)
PROJECT = Project(
    "project-1", "Acme", None, {}, {}, "sk-real...", True, None, created_at=START, updated_at=START
)
TOKEN = AccessToken(
    id="token-1",
    token="sk-JHjW...fQIZ",
    name=None,
    project_id="project-1",
    expires_at=START + timedelta(hours=1),
    is_active=True,
    revoked_at=None,
    max_requests=None,
    policy={},
    request_count=0,
    cache_hit_count=0,
    last_used_at=None,
    created_at=START,
    updated_at=START,
)
PAST = START - timedelta(seconds=1)


class Store:
    """Grants by hash, permits and counts; counts every call."""

    def __init__(self, **changes: Any) -> None:
        self.found: dict[str, Grant | Exception] = {}
        self.asked: list[str] = []
        self.permits = 0
        self.taken: list[str] = []
        self.counted: list[str] = []
        self.put_back_: list[str] = []
        self.limits: dict[str, int] = {}
        self.spent: dict[str, int] = {}
        self.hits: list[str] = []
        self.put(**changes)

    def put(
        self,
        *,
        project_active: bool = True,
        project_policy: dict[str, object] | None = None,
        ancestors: tuple[AccessToken, ...] = (),
        **changes: object,
    ) -> None:
        token = replace(TOKEN, **changes)  # type: ignore[arg-type]
        project = replace(PROJECT, is_active=project_active, policy=project_policy or {})
        grant = Grant(token, project, "sk-upstream", ancestors)
        self.found[tokens.hash_token(SECRET)] = grant

    def find(self, token_hash: str) -> Grant | None:
        self.asked.append(token_hash)
        found = self.found.get(token_hash)
        if isinstance(found, Exception):
            raise found
        return found

    def take_permit(self, token_id: str) -> bool:
        self.taken.append(token_id)
        if token_id in self.limits:
            self.limits[token_id] -= 1
            return self.limits[token_id] >= 0
        self.permits -= 1
        return self.permits >= 0

    def has_permit(self, token_id: str) -> bool:
        return self.permits > 0

    def put_back(self, token_id: str) -> None:
        self.put_back_.append(token_id)

    def add(self, token_id: str) -> None:
        self.counted.append(token_id)

    def hit(self, token_id: str) -> None:
        self.hits.append(token_id)

    def spend(self, token_id: str, tokens: int) -> None:
        self.spent[token_id] = self.spent.get(token_id, 0) + tokens

    def tokens_used(self, token_ids: Collection[str]) -> dict[str, int]:
        return {}
