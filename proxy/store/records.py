"""The records that the store returns: frozen, never rows, and with one exception without secrets.

The exception is :class:`Grant`: it carries the decrypted upstream key, so it lives in memory only
and its ``repr`` does not show it. The dictionaries in records are for reading and never changed.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Project:
    """A customer of the proxy: one upstream key, many access tokens. Times are aware, in UTC."""

    id: str
    name: str
    description: str | None
    metadata: dict[str, Any]
    #: Policy field → value, as the management API accepted it. An unset field is absent.
    policy: dict[str, Any]
    #: The mask stored beside the ciphertext (first 8, ``...``, last 4): listing decrypts nothing.
    #: Empty: the project has no key of its own.
    api_key: str
    is_active: bool
    deactivated_at: datetime | None
    created_at: datetime
    updated_at: datetime
    #: Part of the keys of its stored responses. A higher number makes them unreadable.
    cache_epoch: int = 0


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token as stored after minting: with the mask of the secret, not the secret."""

    id: str
    #: ``sk-`` + 4 + ``...`` + 4.
    token: str
    name: str | None
    project_id: str
    expires_at: datetime
    is_active: bool
    revoked_at: datetime | None
    #: How many requests may be admitted in its lifetime. None means no limit.
    max_requests: int | None
    #: Like a project's policy, which it can only narrow.
    policy: dict[str, Any]
    request_count: int
    cache_hit_count: int
    last_used_at: datetime | None
    created_at: datetime
    updated_at: datetime
    #: The token it was minted from. None if the management API made it.
    parent_id: str | None = None
    #: LLM tokens as upstreams reported them, including those of its descendants.
    tokens_used: int = 0

    def ran_out(self, now: float) -> bool:
        """Whether it expired, and nothing else ended it. ``now`` in unix seconds."""
        return self.revoked_at is None and self.expires_at.timestamp() <= now


@dataclass(frozen=True, slots=True)
class Grant:
    """Everything a token check needs: the token, its project, the upstream key to swap in."""

    token: AccessToken
    project: Project
    #: Empty: the project has no key of its own.
    upstream_key: str = field(repr=False)
    #: The token's ancestors, its parent first.
    ancestors: tuple[AccessToken, ...] = ()

    @property
    def rooted(self) -> bool:
        """Whether all ancestors exist: a token whose parent is missing is not valid."""
        return (self.ancestors or (self.token,))[-1].parent_id is None


@dataclass(frozen=True, slots=True)
class Revoked:
    """The result of revoking all tokens of a project."""

    revoked_count: int
    already_revoked_count: int
    total_tokens: int
