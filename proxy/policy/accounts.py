"""Who is charged for a request: the project, the token, and the tokens that one was minted from.

The thing to get wrong: each has limits of its own and all of them hold. A child token that asked
its parent for nothing still spends what its parent may spend.
"""

from dataclasses import dataclass
from typing import Literal


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
