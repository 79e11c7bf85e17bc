"""Authentication of requests: from the bearer value to a :class:`Principal`.

The order is format, cache, store, then the checks. A token that is in the cache costs no I/O.

Note: the cache keeps what a token *is*, never whether it may be used. Activity and expiry are
checked on every request, also while the database is away.
"""

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from proxy.auth.cache import GrantCache
from proxy.auth.known import KnownGrants
from proxy.auth.principal import Principal, TokenRefused, principal_of
from proxy.core.errors import CipherError, ClientError, KeyUnreadable, QuotaExceeded, StoreError
from proxy.crypto import tokens
from proxy.policy.accounts import Account
from proxy.quota.holds import Full
from proxy.store.records import Grant

_log = logging.getLogger(__name__)


class GrantSource(Protocol):
    """Finds the grant of an access token. Raises StoreError, CipherError."""

    def find(self, token_hash: str) -> Grant | None: ...


class Permits(Protocol):
    """The requests that a token with `max_requests` has left, counted exactly."""

    def take_permit(self, token_id: str) -> bool: ...

    def has_permit(self, token_id: str) -> bool: ...

    def put_back(self, token_id: str) -> None: ...


class UseCounter(Protocol):
    """Counts requests of tokens without a limit, cache hits and LLM tokens, off the request's
    path."""

    def add(self, token_id: str) -> None: ...

    def hit(self, token_id: str) -> None: ...

    def spend(self, token_id: str, tokens: int) -> None: ...


class TokenBudgets(Protocol):
    """The LLM tokens that a token with `max_tokens_total` has left."""

    def update(self, token_id: str, used: int, total: int | None, *, cuts: bool) -> None: ...

    def forget(self, token_ids: Collection[str] | None) -> None: ...

    def hold(self, wanted: Sequence[tuple[str, int]], amount: int) -> Full | None: ...

    def settle(self, token_ids: Sequence[str], amount: int, tokens: int) -> None: ...


class Authenticator:
    """Checks bearers and counts requests against quotas. One per worker."""

    #: The client's credentials are the proxy's own, and do not go upstream.
    relays_credentials = False

    def __init__(
        self,
        grants: GrantSource,
        permits: Permits,
        counter: UseCounter,
        budgets: TokenBudgets,
        *,
        cache_size: int,
        cache_ttl: float,
        stale_grace: float = 0.0,
        clock: Callable[[], float] = time.time,
        cache_clock: Callable[[], float] = time.monotonic,
        known: KnownGrants | None = None,
    ) -> None:
        """Create the authenticator.

        Args:
            cache_size: As `size` of :class:`GrantCache`.
            cache_ttl: Seconds, as `ttl` of :class:`GrantCache`.
            stale_grace: Seconds, as `grace` of :class:`GrantCache`.
            known: What the workers of the node know while the store is away.
        """
        self._grants = grants
        self._permits = permits
        self._counter = counter
        self._budgets = budgets
        self._clock = clock
        self._known = known
        # Log lines about keys that cannot be decrypted, each of which is logged once.
        self._unreadable: set[str] = set()
        self.cache = GrantCache(
            self._look_up,
            size=cache_size,
            ttl=cache_ttl,
            grace=stale_grace,
            clock=cache_clock,
            recall=None if known is None else self._recall,
        )

    def authenticate(self, authorization: str | None) -> Principal:
        """Return the principal of an `Authorization` value.

        Raises the first error that applies:

        - :class:`ClientError` `invalid_token`, `token_not_found`
        - :class:`TokenRefused` `token_inactive`, `token_expired`, `project_inactive`
        - :class:`proxy.core.errors.StoreError`: the token is not cached and the store is away
        - :class:`proxy.core.errors.KeyUnreadable`: the project's upstream key cannot be decrypted
        """
        found = tokens.match_bearer(authorization) if authorization else None
        if found is None:
            raise ClientError(code="invalid_token", headers=_CHALLENGE)
        return self._checked(self.cache.get(tokens.hash_token(found[1])))

    def revalidate(self, token_hash: str) -> Principal:
        """Read an admitted token from the store again, and check it.

        Raises as :meth:`authenticate`; StoreError when the store is away.
        """
        return self._checked(self.cache.refresh(token_hash))

    def _checked(self, principal: Principal | None) -> Principal:
        if principal is None:
            raise ClientError(code="token_not_found", headers=_CHALLENGE)
        if not principal.token_active:
            raise TokenRefused("token_inactive", principal, _CHALLENGE)
        if principal.expires_at <= self._clock():
            raise TokenRefused("token_expired", principal, _CHALLENGE)
        if not principal.project_active:
            raise TokenRefused("project_inactive", principal)
        return principal

    def check_quota(self, principal: Principal, held: int = 0) -> None:
        """Check that the quotas and budgets have room for one request. Nothing is counted.

        Raises as :meth:`take_quota`.
        """
        budgeted = []
        for account in principal.accounts[1:]:
            if account.max_requests is not None and not self._permits.has_permit(account.id):
                raise _used_up("requests", principal, account)
            if account.max_tokens_total is not None:
                budgeted.append(account)
        if budgeted:
            self._hold(principal, budgeted, held)
            self._budgets.settle([each.id for each in budgeted], held, 0)

    def take_quota(self, principal: Principal, held: int = 0) -> None:
        """Count one request, against the quotas if there are any. The last check before upstream.

        The request is counted for the token and all its ancestors, or for none of them. `held` is
        the number of LLM tokens that it may cost. An admitted request must be settled once.

        Raises :class:`QuotaExceeded`, or ClientError `rate_limit_exceeded` when requests in flight
        hold the LLM tokens that are left. Then nothing was counted.
        """
        tokens = principal.accounts[1:]
        budgeted = []
        for account in tokens:
            if account.max_tokens_total is not None:
                budgeted.append(account)  # noqa: PERF401  (a comprehension is a further call)
        if budgeted:
            self._hold(principal, budgeted, held)
        taken = []
        try:
            for account in tokens:
                if account.max_requests is not None:
                    if not self._permits.take_permit(account.id):
                        raise _used_up("requests", principal, account)
                    taken.append(account.id)
        except BaseException:
            for token_id in taken:
                self._permits.put_back(token_id)
            if budgeted:
                self._budgets.settle([each.id for each in budgeted], held, 0)
            raise
        for account in tokens:
            if account.max_requests is None:
                self._counter.add(account.id)

    def count_hit(self, principal: Principal) -> None:
        """Count a response from the cache, for the token and all its ancestors. Does not wait.

        It costs no quota, and is no request of theirs: :meth:`take_quota` is not called for it.
        """
        for account in principal.accounts[1:]:
            self._counter.hit(account.id)

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None:
        """End an admitted request that cost `tokens` LLM tokens. Does not wait."""
        budgeted = []
        for account in principal.accounts[1:]:
            if tokens:
                self._counter.spend(account.id, tokens)
            if account.max_tokens_total is not None:
                budgeted.append(account.id)
        if budgeted:
            self._budgets.settle(budgeted, held, tokens)

    def _hold(self, principal: Principal, budgeted: Sequence[Account], held: int) -> None:
        wanted = [(account.id, account.max_tokens_total or 0) for account in budgeted]
        full = self._budgets.hold(wanted, held)
        if full is None:
            return
        account = budgeted[full.at]
        if not full.in_flight:
            raise _used_up("LLM tokens", principal, account)
        raise ClientError(
            f"What {_whose(principal, account).lower()} has left of its LLM tokens is held by"
            " requests in flight. Try again when one has ended, or ask with a smaller"
            " `max_tokens`.",
            code="rate_limit_exceeded",
            retry_after=1,
        )

    def forget(self, ids: Collection[str] | None) -> None:
        """Forget these tokens, and the tokens of these projects; None: all tokens.

        The store is asked about them again.
        """
        self._budgets.forget(ids)
        self._unreadable.clear()
        if ids is None:
            self.cache.evict(lambda principal: True)
        else:
            chosen = frozenset(ids)
            self.cache.evict(lambda principal: principal.concerned_by(chosen))

    def _look_up(self, token_hash: str) -> Principal | None:
        read_at, asked_at = time.monotonic(), self._clock()
        try:
            grant = self._grants.find(token_hash)
        except CipherError as error:
            # One line per cause, not per request. It names the project, and what must be done.
            if str(error) not in self._unreadable and len(self._unreadable) < 1000:
                self._unreadable.add(str(error))
                _log.error("authenticator: an upstream key cannot be read: %s", error)
            raise KeyUnreadable(_KEY_UNREADABLE) from error
        if self._known is not None:
            self._known.update(token_hash, grant, asked_at)
        return None if grant is None else self._principal(grant, token_hash, read_at)

    def _recall(self, token_hash: str) -> tuple[Principal, float] | None:
        """Return what the node knows of a token, and the seconds for which it may be used."""
        try:
            found = None if self._known is None else self._known.find(token_hash)
        except StoreError:
            found = None
        if found is None:
            return None
        # Read at 0, so that every change is newer.
        return self._principal(found[0], token_hash, 0.0), found[1]

    def _principal(self, grant: Grant, token_hash: str, read_at: float) -> Principal:
        principal = principal_of(grant, token_hash, read_at, self._clock())
        chain, policy = (grant.token, *grant.ancestors), principal.policy
        if why := policy.unreadable:
            _log.error(
                "authenticator: access token %s is refused, its policy cannot be read: %s",
                grant.token.id,
                why,
            )
        for each, account in zip(chain, principal.accounts[1:], strict=True):
            total = account.max_tokens_total
            self._budgets.update(each.id, each.tokens_used, total, cuts=policy.cut_in_flight)
        return principal


_KEY_UNREADABLE: Final = (
    "The upstream key of this project cannot be read by this server. Its operator finds the reason "
    "in the log and in /ready."
)

#: RFC 9110 §11.6.1: a 401 says how to authenticate.
_CHALLENGE: Final = (("WWW-Authenticate", 'Bearer realm="openai-proxy"'),)


def _used_up(what: str, principal: Principal, account: Account) -> QuotaExceeded:
    return QuotaExceeded(f"{_whose(principal, account)} has used up its {what}.")


def _whose(principal: Principal, account: Account) -> str:
    return "This access token" if account.id == principal.token_id else "A parent of this token"


def bearer(authorization: str | None) -> str | None:
    """Return the credentials of `Bearer …`, in any case of the scheme (RFC 9110 §11.1), or None."""
    if not authorization:
        return None
    scheme, _, value = authorization.partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None
