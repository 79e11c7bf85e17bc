"""Who is charged for a request: the project, the token, and the tokens that one was minted from.

The thing to get wrong: each has limits of its own and all of them hold. A child token that asked
its parent for nothing still spends what its parent may spend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """None: no limit of its own; for requests per minute, that of the settings."""

    kind: Literal["project", "token"]
    id: str
    #: Requests, and LLM tokens, per minute.
    rate_limit_rpm: int | None = None
    rate_limit_tpm: int | None = None
    #: Requests under way at once.
    max_concurrent: int | None = None
    #: Over its whole life, tokens only: requests, and LLM tokens.
    max_requests: int | None = None
    max_tokens_total: int | None = None

    @property
    def throttled(self) -> bool:
        """Whether it has a limit of its own on how fast, or on how many at once."""
        return bool(self.rate_limit_rpm or self.rate_limit_tpm or self.max_concurrent)

    @property
    def usage_limited(self) -> bool:
        """Whether its LLM tokens are limited."""
        return bool(self.rate_limit_tpm) or self.max_tokens_total is not None


def account_of(
    kind: Literal["project", "token"],
    account_id: str,
    document: Mapping[str, Any],
    max_requests: int | None = None,
) -> Account:
    """What the policy ``document`` of a project or a token says of its limits.

    Never raises: a document that cannot be read has no limits here, and its policy refuses.
    """
    stored = document if isinstance(document, Mapping) else {}

    def limit(name: str) -> int | None:
        value = stored.get(name)
        return value if type(value) is int else None

    return Account(
        kind=kind,
        id=account_id,
        rate_limit_rpm=limit("rate_limit_rpm"),
        rate_limit_tpm=limit("rate_limit_tpm"),
        max_concurrent=limit("max_concurrent"),
        max_requests=max_requests,
        max_tokens_total=limit("max_tokens_total") if kind == "token" else None,
    )
