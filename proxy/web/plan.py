"""Which buckets the requests of a principal, and of an address, take from.

The thing to get wrong: each account is asked for itself. A token that was minted from another
spends what that one may spend, so that minting is no way around a limit.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from proxy.limits.base import Bucket, Demand
from proxy.policy.accounts import Account
from proxy.web.allowance import Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Requests per minute that hold where an account says nothing else; 0: no limit."""

    everybody: int = 0
    address: int = 0
    token: int = 0
    project: int = 0


class Plan(NamedTuple):
    """What each request of a principal demands: requests first, then LLM tokens."""

    demands: tuple[Demand, ...]
    limits: tuple[Limit, ...]
    #: How many of them count requests.
    requests: int
    #: (key, most) of requests under way at once, and whose they are.
    places: tuple[tuple[str, int], ...]
    crowds: tuple[Limit, ...]


def compile_plan(accounts: Sequence[Account], rates: Rates) -> Plan:
    """In the order in which refusals win: the token's, those before it, the project's, all's."""
    ordered = sorted(accounts, key=lambda account: account.kind == "project")
    # Told apart, or who has one token alone would look for the limit in the wrong place.
    whose: dict[Account, Limit] = {
        account: account.kind if account.kind == "project" or at == 0 else "parent"
        for at, account in enumerate(ordered)
    }
    demands: list[tuple[Demand, Limit]] = []
    for account in ordered:
        default = rates.token if account.kind == "token" else rates.project
        own = account.rate_limit_rpm
        if per_minute := default if own is None else own:
            demands.append(
                (Demand(Bucket(f"{account.kind}:{account.id}", per_minute), 1), whose[account])
            )
    if rates.everybody:
        demands.append((Demand(Bucket("all", rates.everybody), 1), "global"))
    requests = len(demands)
    for account in ordered:
        if account.rate_limit_tpm:
            bucket = Bucket(f"{account.kind}-tpm:{account.id}", account.rate_limit_tpm)
            demands.append((Demand(bucket, 0), whose[account]))
    crowds = [account for account in ordered if account.max_concurrent]
    return Plan(
        demands=tuple(demand for demand, _ in demands),
        limits=tuple(limit for _, limit in demands),
        requests=requests,
        places=tuple((f"{a.kind}:{a.id}", a.max_concurrent or 0) for a in crowds),
        crowds=tuple(whose[account] for account in crowds),
    )


@lru_cache(maxsize=10_000)
def address_demand(address: str, per_minute: int, prefix: str = "ip:") -> tuple[Demand]:
    """One request of a client address, as :func:`proxy.web.inbound.client_address` gives it."""
    return (Demand(Bucket(prefix + _network(address), per_minute), 1),)


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
