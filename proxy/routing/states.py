"""What a worker knows of its targets: keys at rest, circuit breakers, retry budgets.

The state outlives a change of the configuration: a pool takes over the cooldowns of keys whose
value did not change, and a breaker belongs to the provider's id and the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cachetools import LRUCache

from proxy.providers.base import Target
from proxy.providers.records import ProviderKeySecret
from proxy.providers.status import ProviderStatus
from proxy.routing.access import RoutingAccess
from proxy.routing.catalog import Catalog, CatalogProvider
from proxy.routing.circuit_breaker import CircuitBreaker, Permit, State, Verdict
from proxy.routing.key_pool import NO_MODEL, KeyPool, KeyView, KeyWait
from proxy.routing.retry import RULES, Against, Failure, Rule
from proxy.routing.retry_budget import RetryBudget
from proxy.routing.router import RouteTarget

#: Breakers and budgets that are kept. Clients choose models' names, so the number is bounded.
_MAX_TARGETS: Final = 2000
#: Types of providers that need no key.
KEYLESS: Final = frozenset({"ollama", "custom"})
#: Types of providers whose rate limits are of a deployment, so that another key does not help.
_ONE_QUOTA: Final = frozenset({"azure"})
_VERDICTS: Final[Mapping[Against, Verdict]] = {
    Against.TARGET: Verdict.FAILURE,
    # A key's fault says nothing of the target; a fault of the client's shows that it responds.
    Against.KEY: Verdict.NONE,
    Against.KEY_MODEL: Verdict.NONE,
    Against.NOBODY: Verdict.SUCCESS,
}


@dataclass(frozen=True, slots=True)
class ChosenKey:
    """The upstream key of one attempt. `id` is "" for a project's own, and for none at all."""

    id: str
    value: str | None
    secret: ProviderKeySecret | None = None


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A breaker as metrics and the management API show it."""

    provider: str
    model: str
    state: State
    error_ratio: float


class TargetState:
    """The keys of a target's provider, its retry budget, and the target's breaker, if it has one.

    Each chosen key and permit goes back once, with :meth:`served`, :meth:`rejected` or
    :meth:`abandoned`.
    """

    __slots__ = ("breaker", "budget", "model", "one_quota", "own_key", "pool")

    def __init__(
        self,
        model: str | None,
        budget: RetryBudget,
        breaker: CircuitBreaker | None,
        pool: KeyPool | None,
        own_key: ChosenKey | None,
        *,
        one_quota: bool = False,
    ) -> None:
        """`one_quota`: a rate limit of one key is one of all."""
        self.model = model
        self.one_quota = one_quota
        self.budget = budget
        self.breaker = breaker
        self.pool = pool
        self.own_key = own_key

    def choose(self, affinity: bytes, turned_away: set[str]) -> ChosenKey | None:
        """Return a key that may be used now, or None."""
        if self.own_key is not None:
            return None if self.own_key.id in turned_away else self.own_key
        if self.pool is None:
            return None
        secret = self.pool.choose(self.model, affinity, turned_away)
        return None if secret is None else ChosenKey(secret.record.id, secret.value, secret)

    def pinned(self, affinity: bytes) -> ChosenKey | None:
        """Return the one key for requests with this affinity, or None while it rests."""
        if self.own_key is not None or self.pool is None:
            return self.own_key
        secret = self.pool.pinned(self.model, affinity)
        return None if secret is None else ChosenKey(secret.record.id, secret.value, secret)

    def has_key(self, turned_away: set[str]) -> bool:
        """Whether a key is left that may be used now."""
        if self.pool is None:
            return False
        return self.pool.free(self.model, turned_away)

    def waits(self, *, pinned: bytes | None = None) -> KeyWait | None:
        """Return when the first key is back; `pinned`: that of this affinity. None: there is no
        key at all."""
        if self.pool is None:
            return None
        return self.pool.waits(self.model, pinned)

    @property
    def opens_in(self) -> float:
        """Seconds until the breaker lets a request pass."""
        return 0.0 if self.breaker is None else self.breaker.opens_in

    def permit(self, *, lone: bool, early: bool = False) -> Permit | None:
        """Return leave to send one request. None: the breaker is open. See
        :meth:`CircuitBreaker.ok`."""
        if self.breaker is None:
            return Permit(0, trial=False)
        return self.breaker.ok(lone, early=early)

    def served(self, key: ChosenKey, permit: Permit, status: int) -> None:
        """The target's response is the one that the client gets. The key is still in flight."""
        if self.breaker is not None:
            self.breaker.record(permit, Verdict.SUCCESS)
        if self.pool is not None and key.id:
            self.pool.record(key.id, status, self.model)

    def rejected(
        self,
        key: ChosenKey,
        permit: Permit,
        failure: Failure,
        status: int | None,
        retry_after: float | None,
        *,
        spared: bool = False,
    ) -> None:
        """The attempt has failed. `spared`: a rate limit is none of the key, since the request is
        larger than the whole limit."""
        rule = RULES[failure]
        if self.breaker is not None:
            wait = retry_after if status in (503, 529) else None
            self.breaker.record(permit, _VERDICTS[rule.against], wait)
        if self.pool is None or key.secret is None:
            return
        self.pool.release(key.secret)
        if rule.cooldown_status == 429 and spared:
            pass
        elif rule.cooldown_status == 429 and self.one_quota:
            self.pool.cool_all(self.model, retry_after, 429)
        elif rule.cooldown_status is not None:
            self._cool(self.pool, key.id, rule, retry_after)
        if status is not None:
            self.pool.record(key.id, rule.cooldown_status or status, self.model)

    def _cool(self, pool: KeyPool, key_id: str, rule: Rule, retry_after: float | None) -> None:
        cooldown = rule.cooldown_status or 0
        # A request that names no model, such as one for files, says nothing of those that do.
        whole = rule.against is Against.KEY and self.model is not None
        model = None if whole else self.model or NO_MODEL
        pool.cool(key_id, model, retry_after if cooldown == 429 else None, cooldown)

    def abandoned(self, key: ChosenKey | None, permit: Permit | None) -> None:
        """The attempt came to no verdict: the client left, or it was never sent."""
        if permit is not None and self.breaker is not None:
            self.breaker.record(permit, Verdict.NONE)
        self.release(key)

    def broke_off(self) -> None:
        """A response that the client was getting has ended early."""
        if self.breaker is not None:
            permit = self.breaker.ok(lone=True)
            if permit is not None:
                self.breaker.record(permit, Verdict.FAILURE)

    def release(self, key: ChosenKey | None) -> None:
        """The request with this key is over."""
        if self.pool is not None and key is not None and key.secret is not None:
            self.pool.release(key.secret)


class RoutingStates:
    """The states of all targets of a worker."""

    def __init__(
        self,
        clock: Callable[[], float],
        random: Callable[[], float],
        *,
        cooled: Callable[[str, str | None, float, int], None] = lambda *_: None,
        opened: Callable[[str, str, float], None] = lambda *_: None,
    ) -> None:
        """`cooled`: key id, model, seconds, status. `opened`: provider id, model, seconds."""
        self._clock = clock
        self._random = random
        self._cooled = cooled
        self._opened = opened
        self._pools: dict[str, KeyPool] = {}
        self._budgets: LRUCache[str, RetryBudget] = LRUCache(_MAX_TARGETS)
        self._breakers: LRUCache[tuple[str, str | None], CircuitBreaker] = LRUCache(_MAX_TARGETS)
        self._names: dict[str, str] = {}
        #: Provider → retries that its budget has refused.
        self.refused_retries: dict[str, int] = {}
        #: Provider → the last failure of an attempt, in one line without secrets.
        self.last_errors: dict[str, str] = {}

    def replace(self, catalog: Catalog) -> None:
        """Take over the keys of a new catalog."""
        self._pools = {
            provider.record.id: KeyPool(
                provider.keys,
                provider.config.key_strategy,
                self._clock,
                self._random,
                before=self._pools.get(provider.record.id),
                cooled=self._cooled,
            )
            for provider in catalog.providers.values()
        }
        self._names = {each.record.id: each.name for each in catalog.providers.values()}
        for breaker in [each for each in self._breakers if each[0] not in self._names]:
            if not breaker[0].startswith(_OWN):
                del self._breakers[breaker]

    def of(self, target: RouteTarget, access: RoutingAccess, own_key: str | None) -> TargetState:
        """Return the state of a target. `own_key`: of the project."""
        provider, model = target.provider, target.target.model
        if provider is None:
            place = _own_place(target.target)
            breaker = self._breaker(place, None) if access.breaker else None
            return TargetState(None, self._budget(place), breaker, None, ChosenKey("", own_key))
        identifier = provider.record.id
        keyless = not provider.keys and provider.record.provider_type in KEYLESS
        return TargetState(
            model,
            self._budget(identifier),
            self._breaker(identifier, model),
            None if keyless else self._pool(provider),
            ChosenKey("", None) if keyless else None,
            one_quota=provider.record.provider_type in _ONE_QUOTA,
        )

    def budget_exhausted(self, provider: str) -> None:
        """A retry was refused."""
        self.refused_retries[provider] = self.refused_retries.get(provider, 0) + 1

    def failed(self, provider: str, reason: str) -> None:
        """Keep the reason of a provider's latest failure, for people."""
        self.last_errors[provider] = reason

    def pools(self) -> list[KeyPool]:
        """Return the pools of all providers that have keys."""
        return [pool for pool in self._pools.values() if pool.health()]

    def breaker(self, provider_id: str, model: str) -> CircuitBreaker | None:
        """Return the breaker of a provider's model; None: the provider is not known."""
        return self._breaker(provider_id, model or None) if provider_id in self._names else None

    def names(self) -> list[str]:
        """Return the names of all providers."""
        return list(self._names.values())

    def key_health(self) -> list[tuple[str, KeyView]]:
        """Return the health of all keys, each with its provider's name."""
        return [
            (self._names[identifier], health)
            for identifier, pool in self._pools.items()
            for health in pool.health()
        ]

    def provider(self, provider_id: str) -> ProviderStatus:
        """Return how a provider is in this worker: the worst of its models."""
        known = [
            breaker
            for (identifier, _), breaker in list(self._breakers.items())
            if identifier == provider_id
        ]
        states = {breaker.state for breaker in known}
        worst: Literal["closed", "open", "half_open"] = "closed"
        if State.OPEN in states:
            worst = "open"
        elif State.HALF_OPEN in states:
            worst = "half_open"
        return ProviderStatus(
            breaker=worst,
            error_ratio=max((breaker.error_ratio for breaker in known), default=None),
            last_error=self.last_errors.get(self._names.get(provider_id, "")),
        )

    def breakers(self) -> list[BreakerView]:
        """Return the breakers of providers, not those of projects with their own key."""
        return [
            BreakerView(self._names[identifier], model or "", each.state, each.error_ratio)
            for (identifier, model), each in list(self._breakers.items())
            if identifier in self._names
        ]

    def _pool(self, provider: CatalogProvider) -> KeyPool:
        # A request that was routed by the catalog before this one may find its provider gone.
        pool = self._pools.get(provider.record.id)
        if pool is None:
            pool = KeyPool(provider.keys, provider.config.key_strategy, self._clock, self._random)
        return pool

    def _budget(self, place: str) -> RetryBudget:
        budget = self._budgets.get(place)
        if budget is None:
            budget = self._budgets[place] = RetryBudget(self._clock)
        return budget

    def _breaker(self, place: str, model: str | None) -> CircuitBreaker:
        breaker = self._breakers.get((place, model))
        if breaker is None:

            def opened(seconds: float) -> None:
                if place in self._names:
                    self._opened(place, model or "", seconds)

            breaker = CircuitBreaker(self._clock, self._random, opened)
            self._breakers[place, model] = breaker
        return breaker


_OWN: Final = "own "


def _own_place(target: Target) -> str:
    return f"{_OWN}{target.origin}{target.prefix}"
