"""Who is asking, as it was last read from the store.

The thing to get wrong: this is kept for a while, so it says what the token *is*. Whether it may be
used is judged on every request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.core.errors import ClientError
from proxy.policy.accounts import Account, account_of
from proxy.policy.policy import Policy
from proxy.store.records import Grant


@dataclass(frozen=True, slots=True)
class Principal:
    """An access token, its project, and what the proxy needs to serve it. ``expires_at`` in unix
    seconds: its own, or that of an ancestor if that comes first.

    Of whoever passes with a key of their own (see :mod:`proxy.auth.passthrough`) there are no ids
    and no accounts, and ``token_mask`` is what the events call that key.
    """

    token_id: str | None
    token_mask: str | None
    project_id: str | None
    #: None: the request keeps its own ``Authorization``.
    upstream_key: str | None = field(repr=False)
    expires_at: float
    #: It and all its ancestors.
    token_active: bool
    project_active: bool
    policy: Policy
    #: The project's first, then the token's, then those of its ancestors.
    accounts: tuple[Account, ...]
    #: What it is found by in the cache.
    token_hash: str = field(repr=False)
    #: Monotonic seconds: the store was asked after this.
    read_at: float = field(default=0.0, compare=False)
    #: Whether any of its accounts is; asked on every request.
    throttled: bool = field(init=False, compare=False)
    #: Whether the LLM tokens of any of its accounts are limited.
    usage_limited: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "throttled", any(a.throttled for a in self.accounts))
        limited = any(account.usage_limited for account in self.accounts)
        object.__setattr__(self, "usage_limited", limited)

    def concerned_by(self, ids: "frozenset[str] | set[str]") -> bool:
        """Whether a change of one of these projects and tokens may change this."""
        return any(account.id in ids for account in self.accounts)

    def older_than(self, changes: Mapping[str, float]) -> bool:
        """Whether one of its accounts changed since it was read; ``changes``: id → monotonic
        seconds."""
        # Many are asked at once, and a generator for each would cost as much again.
        for account in self.accounts:  # noqa: SIM110
            if changes.get(account.id, -1.0) >= self.read_at:
                return True
        return False


def principal_of(grant: Grant, token_hash: str, read_at: float, now: float) -> Principal:
    """Who a grant is of. ``read_at``: monotonic seconds, as :attr:`Principal.read_at`; ``now``:
    unix seconds."""
    token, project = grant.token, grant.project
    chain = (token, *grant.ancestors)
    return Principal(
        token_id=token.id,
        token_mask=token.token,
        project_id=project.id,
        upstream_key=grant.upstream_key,
        expires_at=min(each.expires_at for each in chain).timestamp(),
        # One that has run out is told that, also when it has been deactivated for it. A child
        # whose parent cannot be found has nobody to answer for it.
        token_active=grant.rooted and all(each.is_active or each.ran_out(now) for each in chain),
        project_active=project.is_active,
        policy=Policy.compile(project.policy, [each.policy for each in chain]),
        accounts=(
            account_of("project", project.id, project.policy),
            *(account_of("token", each.id, each.policy, each.max_requests) for each in chain),
        ),
        token_hash=token_hash,
        read_at=read_at,
    )


class TokenRefused(ClientError):
    """A known token that may not be used now; ``principal`` says whose it is, for the record."""

    def __init__(
        self, code: str, principal: Principal, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(code=code, headers=headers)
        self.principal = principal
