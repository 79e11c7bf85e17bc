"""The limits of one request, from its address to its last LLM token.

The address is looked at first, before the token is, so that a flood of bad tokens ends here; all
buckets are taken from last, together, in one call. ``near`` is what the workers of this node know,
without I/O; with a ``shared`` limiter the call is made there.

The thing to get wrong: a request that never comes to that call has still used its address. It owes
that, and pays when it ends; to the shared one off the path, since a flood must not become one of
calls.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol, get_args

from proxy.auth.principal import Principal
from proxy.core.errors import ClientError, LimiterError
from proxy.policy.accounts import Account
from proxy.ratelimit import headers
from proxy.ratelimit.headers import Headers, Level, Limit
from proxy.ratelimit.limiter import Bucket, Charge, RateLimiter


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests per minute that hold where an account says nothing else; 0: no limit."""

    everybody: int = 0
    address: int = 0
    token: int = 0
    project: int = 0


class Limits(NamedTuple):
    """What each request of a principal demands: requests first, then LLM tokens."""

    demands: tuple[Charge, ...]
    limits: tuple[Limit, ...]
    #: How many of them count requests.
    requests: int
    #: (key, most) of requests under way at once, and whose they are.
    places: tuple[tuple[str, int], ...]
    crowds: tuple[Limit, ...]


def limits_for(accounts: Sequence[Account], rates: Rates) -> Limits:
    """In the order in which refusals win: the token's, those before it, the project's, all's."""
    ordered = sorted(accounts, key=lambda account: account.kind == "project")
    # Told apart, or who has one token alone would look for the limit in the wrong place.
    whose: dict[Account, Limit] = {
        account: account.kind if account.kind == "project" or at == 0 else "parent"
        for at, account in enumerate(ordered)
    }
    demands: list[tuple[Charge, Limit]] = []
    for account in ordered:
        default = rates.token if account.kind == "token" else rates.project
        own = account.rate_limit_rpm
        if per_minute := default if own is None else own:
            demands.append(
                (Charge(Bucket(f"{account.kind}:{account.id}", per_minute), 1), whose[account])
            )
    if rates.everybody:
        demands.append((Charge(Bucket("all", rates.everybody), 1), "global"))
    requests = len(demands)
    for account in ordered:
        if account.rate_limit_tpm:
            bucket = Bucket(f"{account.kind}-tpm:{account.id}", account.rate_limit_tpm)
            demands.append((Charge(bucket, 0), whose[account]))
    crowds = [account for account in ordered if account.max_concurrent]
    return Limits(
        demands=tuple(demand for demand, _ in demands),
        limits=tuple(limit for _, limit in demands),
        requests=requests,
        places=tuple((f"{a.kind}:{a.id}", a.max_concurrent or 0) for a in crowds),
        crowds=tuple(whose[account] for account in crowds),
    )


@lru_cache(maxsize=10_000)
def address_charge(address: str, per_minute: int, prefix: str = "ip:") -> tuple[Charge]:
    """One request of a client address, as :func:`proxy.gateway.request.client_address` gives it."""
    return (Charge(Bucket(prefix + _network(address), per_minute), 1),)


def _network(address: str) -> str:
    """An IPv6 address by its /64, which is what one customer is given; others by themselves."""
    # Some proxies write the port, too: `192.0.2.1:4711`, `[2001:db8::1]:4711`.
    if address.startswith("["):
        address = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        address = address.partition(":")[0]
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(parsed) >> 64 << 64)}/64"


#: Principals whose plans are kept; beyond it all are made again.
_MAX_LIMITS: Final = 10_000
#: The share of a minute's worth that one request holds at most. With more, a small limit would let
#: one request through at a time; and what a killed worker held is back the sooner.
_MOST_HELD: Final = 10
#: This node's own bucket of an address beside the shared one, which a limiter that stands in for
#: the shared one may keep on this node as well.
_NEAR: Final = "near-ip:"


class ConcurrencyLimiter(Protocol):
    """Requests under way at once, over all workers of the node."""

    def enter(self, bounds: Sequence[tuple[str, int]]) -> int | None:
        """Take a place for each (key, most), or none: then the index of the first that is full."""
        ...

    def leave(self, keys: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limiters:
    """``settle`` charges without waiting. ``shared`` None: ``near`` is all there is."""

    near: RateLimiter
    shared: RateLimiter | None = None
    settle: Callable[[Sequence[Charge]], None]
    places: ConcurrencyLimiter


class Reservation:
    """One request's way through its limits. :meth:`end` is idempotent."""

    # Defaults instead of an `__init__`, since one is made for every request.
    #: What the limiter has not been asked for yet.
    unsettled: Sequence[Charge] = ()
    #: Where it is noted that an address owes, while it does: bucket → by how many requests.
    unsettled_by_bucket: dict[Bucket, int] | None = None
    #: (key, most) of what is under way with it.
    places: Sequence[tuple[str, int]] = ()
    #: Demands that wait for the number of LLM tokens.
    spending: Sequence[Charge] = ()
    #: The tightest bucket of each kind, once all were taken from.
    requests: Level | None = None
    tokens: Level | None = None
    limiters: Limiters

    def headers(self) -> Headers:
        return headers.rate_limit_headers(self.requests, self.tokens)

    def spend(self, tokens: int) -> None:
        """LLM tokens that the request has cost; what it held is released. Does not wait."""
        # What is held is below 0.
        charges = [Charge(bucket, tokens + held) for bucket, held in self.spending]
        self.spending = [Charge(bucket, 0) for bucket, _ in self.spending]
        if any(permits for _, permits in charges):
            self.limiters.settle(charges)

    def end(self) -> None:
        """The request has ended; what it spent may still become known. Does not wait."""
        places, self.places = self.places, ()
        if places:
            self.limiters.places.leave([key for key, _ in places])
        owed = self.clear_unsettled()
        if owed:
            self.limiters.settle(owed)

    def clear_unsettled(self) -> Sequence[Charge]:
        """Nothing is owed any more; answers what was."""
        owed, self.unsettled = self.unsettled, ()
        if owed and self.unsettled_by_bucket is not None:
            bucket = owed[0].bucket
            left = self.unsettled_by_bucket[bucket] - 1
            if left:
                self.unsettled_by_bucket[bucket] = left
            else:
                del self.unsettled_by_bucket[bucket]
        return owed


class RequestLimiter:
    """One per worker."""

    def __init__(self, rates: Rates, limiters: Limiters) -> None:
        self._rates = rates
        self._limiters = limiters
        self._near_prefix = "ip:" if limiters.shared is None else _NEAR
        #: Whether addresses have a limit, and whether requests without limits of their own have.
        self.by_address = rates.address > 0
        self.always = rates != Rates()
        # Token id → the accounts of its principal, and what they come to. Compared by identity:
        # whatever changes makes a new principal.
        self._plans: dict[str | None, tuple[Sequence[Account], Limits]] = {}
        # Address → its requests that have not paid yet, here; those of other workers show once
        # they have paid.
        self._owing: dict[Bucket, int] = {}
        #: Refusals, by limit.
        self.refused: dict[Limit, int] = dict.fromkeys(get_args(Limit), 0)

    def enter(self, address: str) -> Reservation:
        """A request of a client address. ClientError 429: it has no more; nothing is counted."""
        limiters, per_minute = self._limiters, self._rates.address
        owed = address_charge(address, per_minute)
        if limiters.shared is None:
            # Those under way that have not paid count, or all that come at once would pass.
            bucket, owing = owed[0].bucket, self._owing
            unpaid = owing.get(bucket, 0)
            level = limiters.near.peek(bucket) - unpaid
            if level < 1:
                raise self._refusal("address", owed, [level], 0, 1)
            owing[bucket] = unpaid + 1
        else:
            demands = self._nearest(address)
            decision = limiters.near.take(demands)
            if decision.refused is not None:
                raise self._refusal("address", demands, decision.levels, 0, 1)
        passage = Reservation()
        passage.limiters = limiters
        passage.unsettled = owed
        if limiters.shared is None:
            passage.unsettled_by_bucket = self._owing
        return passage

    def passage(self) -> Reservation:
        """Of a request whose address nobody counts."""
        passage = Reservation()
        passage.limiters = self._limiters
        return passage

    def hold(self, passage: Reservation, principal: Principal) -> None:
        """Take the place of a request among those under way. ClientError 429: there is none."""
        plan = self._plan(principal)
        if plan.places:
            full = self._limiters.places.enter(plan.places)
            if full is not None:
                self.refused["concurrency"] += 1
                raise headers.too_many_concurrent(plan.crowds[full], plan.places[full][1])
            passage.places = plan.places

    def admit(self, passage: Reservation, principal: Principal, held: int = 0) -> None:
        """Take what a request of ``principal`` demands; ``held``: LLM tokens that it may cost.

        ClientError 429; LimiterError: nobody can tell.
        """
        plan = self._plan(principal)
        demands, requests, owed = plan.demands, plan.requests, passage.unsettled
        if held:
            tokens = [Charge(each, -_held(each, held)) for each, _ in demands[requests:]]
            demands = (*demands[:requests], *tokens)
        if owed:
            demands, requests = (*owed, *demands), requests + 1
        if not demands:
            return
        limiter = self._limiters.shared or self._limiters.near
        try:
            levels, refused = limiter.take(demands)
        except LimiterError as error:
            raise LimiterError("Rate limits cannot be checked right now.") from error
        if refused is not None:
            if owed and refused == 0:
                passage.clear_unsettled()  # an address that is refused is not counted
            limits: tuple[Limit, ...] = ("address", *plan.limits) if owed else plan.limits
            raise self._refusal(limits[refused], demands, levels, refused, requests)
        passage.clear_unsettled()
        tightest: Level | None = None
        for level, (bucket, _) in zip(levels[:requests], demands, strict=False):
            if tightest is None or level < tightest[0]:
                tightest = (level, bucket)
        passage.requests = tightest
        if requests < len(demands):
            passage.spending = spending = demands[requests:]
            pairs = zip(levels[requests:], spending, strict=True)
            passage.tokens = min((level - permits, bucket) for level, (bucket, permits) in pairs)

    def check_login(self, address: str) -> None:
        """Whether a management login from there may be tried. ClientError 429."""
        if self.by_address:
            (demand,) = self._nearest(address)
            level = self._limiters.near.peek(demand.bucket)
            # Not below 1: who floods `/v1` from there must not keep out who would stop them.
            if level <= 0:
                nothing = [demand._replace(permits=0)]
                raise self._refusal("address", nothing, [level], 0, 1)

    def count_login(self, address: str) -> None:
        """A management login from there was refused."""
        if self.by_address:
            self._limiters.near.settle(self._nearest(address))
            if self._limiters.shared is not None:
                self._limiters.settle(address_charge(address, self._rates.address))

    def _nearest(self, address: str) -> tuple[Charge]:
        return address_charge(address, self._rates.address, self._near_prefix)

    def _plan(self, principal: Principal) -> Limits:
        known = self._plans.get(principal.token_id)
        if known is not None and known[0] is principal.accounts:
            return known[1]
        return self._compile(principal)

    def _compile(self, principal: Principal) -> Limits:
        if len(self._plans) >= _MAX_LIMITS:
            self._plans.clear()
        plan = limits_for(principal.accounts, self._rates)
        self._plans[principal.token_id] = (principal.accounts, plan)
        return plan

    def _refusal(
        self,
        limit: Limit,
        demands: Sequence[Charge],
        levels: Sequence[float],
        refused: int,
        requests: int,
    ) -> ClientError:
        self.refused[limit] += 1
        return headers.rate_limited(limit, demands, levels, refused, requests)


def _held(bucket: Bucket, tokens: int) -> int:
    return min(tokens, max(1, bucket.per_minute // _MOST_HELD))
