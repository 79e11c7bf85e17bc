"""The accounts that a request is charged to: its project, its access token, the token's ancestors.

Each has limits of its own, and all of them apply. A child token without limits of its own still
spends what its parent may spend.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One account and its limits.

    None means no limit of its own; for requests per minute, the default of the settings.
    """

    kind: Literal["project", "token"]
    id: str
    #: Requests, and LLM tokens, per minute.
    rate_limit_rpm: int | None = None
    rate_limit_tpm: int | None = None
    #: Requests in flight.
    max_concurrent: int | None = None
    #: Access tokens only, over the whole life: requests, and LLM tokens.
    max_requests: int | None = None
    max_tokens_total: int | None = None

    @property
    def throttled(self) -> bool:
        """Whether it has a rate limit or a concurrency limit of its own."""
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
    """Return the account of a project or a token, with the limits of its policy ``document``.

    Never raises. A document that cannot be read has no limits here; its policy refuses requests.
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
