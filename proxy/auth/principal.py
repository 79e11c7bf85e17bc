"""The principal of a request: an access token as it was last read from the store.

Note: a principal is cached, so it describes what the token *is*. Whether the token may be used is
checked on every request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.cache.access import CacheAccess, cache_access
from proxy.core.errors import ClientError
from proxy.policy.accounts import Account, account_of
from proxy.policy.policy import Policy
from proxy.routing.access import RoutingAccess, routing_access
from proxy.store.records import Grant


@dataclass(frozen=True, slots=True)
class Principal:
    """An access token, its project, and what the proxy needs to serve its requests.

    A client with a key of its own (:mod:`proxy.auth.passthrough`) has no ids and no accounts, and
    its `token_mask` is the name of that key in events.
    """

    token_id: str | None
    token_mask: str | None
    project_id: str | None
    #: None: the request keeps its own `Authorization`. Empty: the project has no key of its own.
    upstream_key: str | None = field(repr=False)
    #: Unix seconds: the token's own expiry, or an ancestor's if that comes first.
    expires_at: float
    #: Whether the token and all its ancestors are active.
    token_active: bool
    project_active: bool
    policy: Policy
    #: The project's first, then the token's, then those of its ancestors.
    accounts: tuple[Account, ...]
    #: The key of the cache.
    token_hash: str = field(repr=False)
    #: Monotonic seconds: the store was read after this moment.
    read_at: float = field(default=0.0, compare=False)
    #: Its project's ways to other upstreams. None: its own key and the default upstream alone.
    routing: RoutingAccess | None = None
    #: What it asks of the response cache. None: nothing, so its requests pay nothing for it.
    caching: CacheAccess | None = None
    #: Whether any of its accounts has a rate or concurrency limit; read on every request.
    throttled: bool = field(init=False, compare=False)
    #: Whether the LLM tokens of any of its accounts are limited.
    usage_limited: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "throttled", any(a.throttled for a in self.accounts))
        limited = any(account.usage_limited for account in self.accounts)
        object.__setattr__(self, "usage_limited", limited)

    def concerned_by(self, ids: "frozenset[str] | set[str]") -> bool:
        """Return whether a change of one of these projects and tokens may change this."""
        return any(account.id in ids for account in self.accounts)

    def older_than(self, changes: Mapping[str, float]) -> bool:
        """Return whether an account changed since this was read.

        `changes`: id → monotonic seconds.
        """
        # Called for many principals at once. A generator for each would double the cost.
        for account in self.accounts:  # noqa: SIM110
            if changes.get(account.id, -1.0) >= self.read_at:
                return True
        return False


def principal_of(grant: Grant, token_hash: str, read_at: float, now: float) -> Principal:
    """Make a grant's principal.

    `read_at`: monotonic seconds, as :attr:`Principal.read_at`. `now`: Unix seconds.
    """
    token, project = grant.token, grant.project
    chain = (token, *grant.ancestors)
    return Principal(
        token_id=token.id,
        token_mask=token.token,
        project_id=project.id,
        upstream_key=grant.upstream_key,
        expires_at=min(each.expires_at for each in chain).timestamp(),
        # A token that has expired is refused as expired, also when maintenance has deactivated it
        # for that. A child whose parent cannot be found is inactive.
        token_active=grant.rooted and all(each.is_active or each.ran_out(now) for each in chain),
        project_active=project.is_active,
        policy=Policy.compile(project.policy, [each.policy for each in chain]),
        accounts=(
            account_of("project", project.id, project.policy),
            *(account_of("token", each.id, each.policy, each.max_requests) for each in chain),
        ),
        token_hash=token_hash,
        read_at=read_at,
        routing=routing_access(project.policy),
        caching=cache_access(
            project.policy,
            [each.policy for each in chain],
            project_id=project.id,
            token_id=token.id,
            epoch=project.cache_epoch,
        ),
    )


class TokenRefused(ClientError):
    """A known token may not be used now. `principal` is the token's, for the usage event."""

    def __init__(
        self, code: str, principal: Principal, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(code=code, headers=headers)
        self.principal = principal
