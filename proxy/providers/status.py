"""How providers and their keys are, as the management API shows it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key over all nodes: the worst of its models. Times are aware, in UTC."""

    #: `failed`: the upstream refused the key itself, and it is tried again at `cooling_until`.
    health: Literal["healthy", "cooling", "failed"] = "healthy"
    #: The latest end of its cooldowns. None: none runs.
    cooling_until: datetime | None = None
    last_status: int | None = None
    last_used_at: datetime | None = None
    success_count: int = 0
    failure_count: int = 0


@dataclass(frozen=True, slots=True)
class ProviderStatus:
    """One provider in one worker: the worst of its models."""

    breaker: Literal["closed", "open", "half_open"] = "closed"
    #: The part of attempts that failed in the breaker's window. None: there were none.
    error_ratio: float | None = None
    #: What the last failure was, without secrets.
    last_error: str | None = None


class Breakers(Protocol):
    """The circuit breakers of this worker."""

    def provider(self, provider_id: str) -> ProviderStatus: ...


@dataclass(frozen=True, slots=True)
class KeyTest:
    """What came of asking an upstream for its models with one key."""

    key_id: str
    name: str
    ok: bool
    #: The upstream's HTTP status. None: there was no response.
    status: int | None
    duration_ms: float
    models_count: int | None = None
    #: Why it is not ok, without secrets.
    error: str | None = None
