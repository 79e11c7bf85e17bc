"""Which upstreams a project may use: its own key, and shared providers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.providers.base import Target


@dataclass(frozen=True, slots=True)
class RoutingAccess:
    """Compiled from a project's fields, once. A project with only its own key has none."""

    #: Names of the providers that it may use.
    providers: frozenset[str] = frozenset()
    all_providers: bool = False
    #: The upstream of the project's own key. None: the default upstream.
    own: Target | None = None
    #: Further attempts with the project's own key.
    max_retries: int = 0
    #: Whether the upstream of the project's own key has a circuit breaker.
    breaker: bool = False

    @property
    def shared(self) -> bool:
        """Whether the project may use any provider, so that names are resolved."""
        return self.all_providers or bool(self.providers)

    def allows(self, provider: str) -> bool:
        return self.all_providers or provider in self.providers


def routing_access(policy: Mapping[str, Any]) -> RoutingAccess | None:
    """Compile a project's routing fields. Returns None when it sets none of them."""
    providers = frozenset(policy.get("providers") or ())
    base_url: str | None = policy.get("base_url")
    max_retries: int = policy.get("max_retries") or 0
    breaker = policy.get("breaker") == "on"
    if not (providers or base_url or max_retries or breaker):
        return None
    return RoutingAccess(
        providers=providers - {"*"},
        all_providers="*" in providers,
        own=None if base_url is None else Target.from_url(base_url).public_only(),
        max_retries=max_retries,
        breaker=breaker,
    )
