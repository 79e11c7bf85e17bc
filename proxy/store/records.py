"""What the store hands out: frozen facts, never rows and never secrets in clear but one.

:class:`Grant` is that one: it carries the decrypted upstream key, so it lives in memory only and
its ``repr`` does not show it. The dictionaries in records are for reading: nobody changes them.
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
    #: Policy field → value, as the management API took it. A field that was not set is not in it.
    policy: dict[str, Any]
    #: The mask kept beside the ciphertext (first 8, ``...``, last 4), so listing decrypts nothing.
    api_key: str
    is_active: bool
    deactivated_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A withering token as it is known after minting: the secret is gone, its mask is kept."""

    id: str
    #: ``sk-`` + 4 + ``...`` + 4.
    token: str
    name: str | None
    project_id: str
    expires_at: datetime
    is_active: bool
    revoked_at: datetime | None
    #: Lifetime cap of admitted requests; None: no limit.
    max_requests: int | None
    #: As a project's; it can only narrow that one.
    policy: dict[str, Any]
    request_count: int
    cache_hit_count: int
    last_used_at: datetime | None
    created_at: datetime
    updated_at: datetime
    #: The token it was minted from; None: it was made by the management API.
    parent_id: str | None = None
    #: LLM tokens, as upstreams reported them; those of its descendants, too.
    tokens_used: int = 0

    def ran_out(self, now: float) -> bool:
        """Whether its time was over, and nothing else ended it. ``now`` in unix seconds."""
        return self.revoked_at is None and self.expires_at.timestamp() <= now


@dataclass(frozen=True, slots=True)
class Grant:
    """All that a token check needs: the token, its project, the key to swap in."""

    token: AccessToken
    project: Project
    upstream_key: str = field(repr=False)
    #: Those it comes from, its parent first.
    ancestors: tuple[AccessToken, ...] = ()

    @property
    def rooted(self) -> bool:
        """Whether the ancestors are all there: a token with a parent that is not is nobody's."""
        return (self.ancestors or (self.token,))[-1].parent_id is None


@dataclass(frozen=True, slots=True)
class Revoked:
    """What revoking all tokens of a project did."""

    revoked_count: int
    already_revoked_count: int
    total_tokens: int
