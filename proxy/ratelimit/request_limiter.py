"""The limits of one request, from its client address to its last LLM token.

1. The address is checked first, before the access token, so that a flood of bad tokens ends here.
2. All buckets are charged last, together, in one call. `near` is what the workers of this node
   know, without I/O; with a `shared` limiter the call goes there.
3. A request that never reaches that call has still used its address. Its charge stays unsettled
   until the request ends. With a shared limiter it is then debited off the path of the request: a
   flood of requests must not become a flood of calls.
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
    """Default requests per minute, for accounts without a limit of their own; 0 means no limit."""

    all_clients: int = 0
    address: int = 0
    token: int = 0
    project: int = 0


class Limits(NamedTuple):
    """What each request of a principal is charged: requests first, then LLM tokens."""

    charges: tuple[Charge, ...]
    limits: tuple[Limit, ...]
    #: How many of the charges count requests.
    requests: int
    #: (key, maximum) pairs of requests in flight, and whose limit each is.
    concurrency: tuple[tuple[str, int], ...]
    concurrency_owners: tuple[Limit, ...]


def limits_for(accounts: Sequence[Account], rates: Rates) -> Limits:
    """Return the limits, in the order in which refusals win: token, ancestors, project, global."""
    ordered = sorted(accounts, key=lambda account: account.kind == "project")
    # An ancestor's limit has a name of its own, or the holder of a token would look for it there.
    owners: dict[Account, Limit] = {
        account: account.kind if account.kind == "project" or at == 0 else "parent"
        for at, account in enumerate(ordered)
    }
    charges: list[tuple[Charge, Limit]] = []
    for account in ordered:
        default = rates.token if account.kind == "token" else rates.project
        own = account.rate_limit_rpm
        if per_minute := default if own is None else own:
            charges.append(
                (Charge(Bucket(f"{account.kind}:{account.id}", per_minute), 1), owners[account])
            )
    if rates.all_clients:
        charges.append((Charge(Bucket("all", rates.all_clients), 1), "global"))
    requests = len(charges)
    for account in ordered:
        if account.rate_limit_tpm:
            bucket = Bucket(f"{account.kind}-tpm:{account.id}", account.rate_limit_tpm)
            charges.append((Charge(bucket, 0), owners[account]))
    concurrency_owners = [account for account in ordered if account.max_concurrent]
    return Limits(
        charges=tuple(charge for charge, _ in charges),
        limits=tuple(limit for _, limit in charges),
        requests=requests,
        concurrency=tuple((f"{a.kind}:{a.id}", a.max_concurrent or 0) for a in concurrency_owners),
        concurrency_owners=tuple(owners[account] for account in concurrency_owners),
    )


@lru_cache(maxsize=10_000)
def address_charge(address: str, per_minute: int, prefix: str = "ip:") -> tuple[Charge]:
    """Return the charge of one request of a client address.

    The address comes from :func:`proxy.gateway.request.client_address`.
    """
    return (Charge(Bucket(prefix + _network(address), per_minute), 1),)


def _network(address: str) -> str:
    """Return the /64 of an IPv6 address, because one customer gets a /64; else the address."""
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


#: Principals whose limits are kept; beyond that all are compiled again.
_MAX_LIMITS: Final = 10_000
#: One request holds at most a tenth of a minute's worth. With more, a small limit would let one
#: request through at a time. What a killed worker held also comes back sooner.
_MAX_HELD_DIVISOR: Final = 10
#: The prefix of this node's own bucket of an address. The fallback of the shared limiter may keep
#: the shared bucket on this node as well.
_NEAR: Final = "near-ip:"


class ConcurrencyLimiter(Protocol):
    """Requests in flight, over all workers of the node."""

    def reserve(self, bounds: Sequence[tuple[str, int]]) -> int | None:
        """Reserve one slot per `(key, maximum)` pair, or none.

        Returns the index of the first full key, or None when all slots were reserved.
        """
        ...

    def release(self, keys: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limiters:
    """The limiters of a worker. `debit` does not wait. Without `shared`, `near` decides."""

    near: RateLimiter
    shared: RateLimiter | None = None
    debit: Callable[[Sequence[Charge]], None]
    concurrency: ConcurrencyLimiter


class Reservation:
    """What one request holds of its limits. :meth:`end` is idempotent."""

    # Defaults instead of an `__init__`, since one is made for every request.
    #: The charge of the address, until a limiter has taken it.
    unsettled: Sequence[Charge] = ()
    #: Counts that charge while it is unsettled: bucket → how many requests have one.
    unsettled_by_bucket: dict[Bucket, int] | None = None
    #: (key, maximum) pairs of the slots that it holds.
    concurrency: Sequence[tuple[str, int]] = ()
    #: Charges whose number of LLM tokens is not known yet.
    token_buckets: Sequence[Charge] = ()
    #: The tightest bucket of each kind, after :meth:`RequestLimiter.take`.
    requests: Level | None = None
    tokens: Level | None = None
    limiters: Limiters

    def headers(self) -> Headers:
        return headers.rate_limit_headers(self.requests, self.tokens)

    def spend(self, tokens: int) -> None:
        """Debit the LLM tokens of the request, and release those it held. Does not wait."""
        # A charge that holds tokens is below 0.
        charges = [Charge(bucket, tokens + held) for bucket, held in self.token_buckets]
        self.token_buckets = [Charge(bucket, 0) for bucket, _ in self.token_buckets]
        if any(permits for _, permits in charges):
            self.limiters.debit(charges)

    def end(self) -> None:
        """Release its slots and settle its address. `spend` may follow. Does not wait."""
        concurrency, self.concurrency = self.concurrency, ()
        if concurrency:
            self.limiters.concurrency.release([key for key, _ in concurrency])
        if self.unsettled:
            self.limiters.debit(self.clear_unsettled())

    def clear_unsettled(self) -> Sequence[Charge]:
        """Clear the unsettled charge, and return it."""
        unsettled, self.unsettled = self.unsettled, ()
        if unsettled and self.unsettled_by_bucket is not None:
            bucket = unsettled[0].bucket
            left = self.unsettled_by_bucket[bucket] - 1
            if left:
                self.unsettled_by_bucket[bucket] = left
            else:
                del self.unsettled_by_bucket[bucket]
        return unsettled


class RequestLimiter:
    """The limits of each request of one worker."""

    def __init__(self, rates: Rates, limiters: Limiters) -> None:
        self._rates = rates
        self._limiters = limiters
        self._near_prefix = "ip:" if limiters.shared is None else _NEAR
        #: Whether addresses have a limit, and whether requests without limits of their own do.
        self.by_address = rates.address > 0
        self.always = rates != Rates()
        # Token id → the accounts of its principal, and their limits. Compared by identity: every
        # change makes a new principal.
        self._compiled: dict[str | None, tuple[Sequence[Account], Limits]] = {}
        # Bucket of an address → its unsettled requests in this worker. Those of other workers show
        # once they are settled.
        self._unsettled: dict[Bucket, int] = {}
        #: Refusals, by limit.
        self.refused: dict[Limit, int] = dict.fromkeys(get_args(Limit), 0)

    def check_client(self, address: str) -> Reservation:
        """Reserve one request of a client address.

        Raises ClientError 429 when the address has none left. Nothing is counted then.
        """
        limiters, per_minute = self._limiters, self._rates.address
        unsettled = address_charge(address, per_minute)
        if limiters.shared is None:
            # Unsettled requests in flight count, or all that arrive at once would pass.
            bucket, by_bucket = unsettled[0].bucket, self._unsettled
            unpaid = by_bucket.get(bucket, 0)
            level = limiters.near.peek(bucket) - unpaid
            if level < 1:
                raise self._refusal("address", unsettled, [level], 0, 1)
            by_bucket[bucket] = unpaid + 1
        else:
            charges = self._nearest(address)
            decision = limiters.near.take(charges)
            if decision.refused is not None:
                raise self._refusal("address", charges, decision.remaining, 0, 1)
        reservation = Reservation()
        reservation.limiters = limiters
        reservation.unsettled = unsettled
        if limiters.shared is None:
            reservation.unsettled_by_bucket = self._unsettled
        return reservation

    def new_reservation(self) -> Reservation:
        """Return the reservation of a request whose address has no limit."""
        reservation = Reservation()
        reservation.limiters = self._limiters
        return reservation

    def reserve_concurrency(self, reservation: Reservation, principal: Principal) -> None:
        """Reserve the concurrency slots of a request. Raises ClientError 429 when there is none."""
        limits = self._limits_of(principal)
        if limits.concurrency:
            full = self._limiters.concurrency.reserve(limits.concurrency)
            if full is not None:
                self.refused["concurrency"] += 1
                owner, (_, maximum) = limits.concurrency_owners[full], limits.concurrency[full]
                raise headers.too_many_concurrent(owner, maximum)
            reservation.concurrency = limits.concurrency

    def take(self, reservation: Reservation, principal: Principal, held: int = 0) -> None:
        """Charge a request of `principal`. `held`: LLM tokens that it may cost.

        Raises ClientError 429, or LimiterError when no limiter can decide.
        """
        limits = self._limits_of(principal)
        charges, requests, unsettled = limits.charges, limits.requests, reservation.unsettled
        if held:
            tokens = [Charge(each, -_held(each, held)) for each, _ in charges[requests:]]
            charges = (*charges[:requests], *tokens)
        if unsettled:
            charges, requests = (*unsettled, *charges), requests + 1
        if not charges:
            return
        limiter = self._limiters.shared or self._limiters.near
        try:
            remaining, refused = limiter.take(charges)
        except LimiterError as error:
            raise LimiterError("Rate limits cannot be checked right now.") from error
        if refused is not None:
            if unsettled and refused == 0:
                reservation.clear_unsettled()  # an address that is refused is not counted
            names: tuple[Limit, ...] = ("address", *limits.limits) if unsettled else limits.limits
            raise self._refusal(names[refused], charges, remaining, refused, requests)
        reservation.clear_unsettled()
        tightest: Level | None = None
        for level, (bucket, _) in zip(remaining[:requests], charges, strict=False):
            if tightest is None or level < tightest[0]:
                tightest = (level, bucket)
        reservation.requests = tightest
        if token_buckets := charges[requests:]:
            reservation.token_buckets = token_buckets
            pairs = zip(remaining[requests:], token_buckets, strict=True)
            reservation.tokens = min(
                (level - permits, bucket) for level, (bucket, permits) in pairs
            )

    def check_login(self, address: str) -> None:
        """Check that the address may try a management login. Raises ClientError 429."""
        if self.by_address:
            (charge,) = self._nearest(address)
            level = self._limiters.near.peek(charge.bucket)
            # Below 1 passes: a flood of `/v1` from an address must not lock its administrator out.
            if level <= 0:
                nothing = [charge._replace(permits=0)]
                raise self._refusal("address", nothing, [level], 0, 1)

    def count_login(self, address: str) -> None:
        """Charge the address for a refused management login."""
        if self.by_address:
            self._limiters.near.debit(self._nearest(address))
            if self._limiters.shared is not None:
                self._limiters.debit(address_charge(address, self._rates.address))

    def _nearest(self, address: str) -> tuple[Charge]:
        return address_charge(address, self._rates.address, self._near_prefix)

    def _limits_of(self, principal: Principal) -> Limits:
        known = self._compiled.get(principal.token_id)
        if known is not None and known[0] is principal.accounts:
            return known[1]
        return self._compile(principal)

    def _compile(self, principal: Principal) -> Limits:
        if len(self._compiled) >= _MAX_LIMITS:
            self._compiled.clear()
        limits = limits_for(principal.accounts, self._rates)
        self._compiled[principal.token_id] = (principal.accounts, limits)
        return limits

    def _refusal(
        self,
        limit: Limit,
        charges: Sequence[Charge],
        remaining: Sequence[float],
        refused: int,
        requests: int,
    ) -> ClientError:
        self.refused[limit] += 1
        return headers.rate_limited(limit, charges, remaining, refused, requests)


def _held(bucket: Bucket, tokens: int) -> int:
    return min(tokens, max(1, bucket.per_minute // _MAX_HELD_DIVISOR))
