"""From a bearer to a :class:`Principal`: format, cache, store, then the judgement.

A warm token costs no I/O. The thing to get wrong: what is cached is what the token *is*, never the
verdict; activity and expiry are judged again on every request, also while the database is away.
"""

import logging
import time
from collections.abc import Callable, Collection
from typing import Final, Protocol

from proxy.auth import credentials
from proxy.auth.cache import GrantCache
from proxy.auth.principal import Principal, TokenRefused
from proxy.errors import ClientError
from proxy.policy.accounts import account_of
from proxy.policy.policy import Policy
from proxy.store.records import Grant

_log = logging.getLogger(__name__)

_QUOTA_HEADERS: Final = (("x-should-retry", "false"),)


class GrantSource(Protocol):
    """The store, as seen from here."""

    def find(self, token_hash: str) -> Grant | None: ...


class Permits(Protocol):
    """The exact count of what a token with ``max_requests`` may still do."""

    def take_permit(self, token_id: str) -> bool: ...


class UseCounter(Protocol):
    """Where requests of tokens without a limit are counted, off the path."""

    def add(self, token_id: str) -> None: ...


class Authenticator:
    """Checks bearers; one per worker."""

    def __init__(
        self,
        grants: GrantSource,
        permits: Permits,
        counter: UseCounter,
        *,
        cache_size: int,
        cache_ttl: float,
        stale_grace: float = 0.0,
        clock: Callable[[], float] = time.time,
        cache_clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``cache_ttl`` and ``stale_grace``: seconds, as of :class:`GrantCache`."""
        self._grants = grants
        self._permits = permits
        self._counter = counter
        self._clock = clock
        self.cache = GrantCache(
            self._look_up, size=cache_size, ttl=cache_ttl, grace=stale_grace, clock=cache_clock
        )

    def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an ``Authorization`` value.

        Raises the first that holds: :class:`ClientError` ``invalid_token``, ``token_not_found``;
        :class:`TokenRefused` ``token_inactive``, ``token_expired``, ``project_inactive``; or
        :class:`proxy.errors.StoreError` when a token is not cached and the store is away.
        """
        secret = bearer(authorization)
        if secret is None or not credentials.is_well_formed(secret):
            raise ClientError(code="invalid_token", headers=_CHALLENGE)
        token_hash = credentials.hash_token(secret)
        principal = self.cache.get(token_hash)
        if principal is None:
            raise ClientError(code="token_not_found", headers=_CHALLENGE)
        if not principal.token_active:
            raise TokenRefused("token_inactive", principal, _CHALLENGE)
        if principal.expires_at <= self._clock():
            raise TokenRefused("token_expired", principal, _CHALLENGE)
        if not principal.project_active:
            raise TokenRefused("project_inactive", principal)
        return principal

    def admit(self, principal: Principal) -> None:
        """Count one request, against the quota if there is one; the last check before upstream.

        Raises :class:`ClientError` ``quota_exceeded``: nothing was counted then.
        """
        for account in principal.accounts:
            if account.kind == "project":
                continue
            if account.max_requests is None:
                self._counter.add(account.id)
            elif not self._permits.take_permit(account.id):
                raise ClientError(code="quota_exceeded", headers=_QUOTA_HEADERS)

    def forget(self, ids: Collection[str] | None) -> None:
        """Ask the store again about these tokens, and the tokens of these projects; None: all."""
        if ids is None:
            self.cache.evict(lambda principal: True)
        else:
            chosen = frozenset(ids)
            self.cache.evict(lambda principal: principal.concerned_by(chosen))

    def _look_up(self, token_hash: str) -> Principal | None:
        grant = self._grants.find(token_hash)
        if grant is None:
            return None
        token, project = grant.token, grant.project
        policy = Policy.compile(project.policy, [token.policy])
        if policy.unreadable:
            _log.error(
                "token %s is refused, its rules cannot be read: %s", token.id, policy.unreadable
            )
        return Principal(
            token_id=token.id,
            token_mask=token.token,
            project_id=project.id,
            upstream_key=grant.upstream_key,
            expires_at=token.expires_at.timestamp(),
            # One that has run out is told that, also when it has been deactivated for it.
            token_active=token.is_active or token.ran_out(self._clock()),
            project_active=project.is_active,
            policy=policy,
            accounts=(
                account_of("project", project.id, project.policy),
                account_of("token", token.id, token.policy, token.max_requests),
            ),
            token_hash=token_hash,
        )


#: RFC 9110 §11.6.1: a 401 says how to authenticate.
_CHALLENGE: Final = (("WWW-Authenticate", 'Bearer realm="openai-proxy"'),)


def bearer(authorization: str | None) -> str | None:
    """The credentials of ``Bearer …``; the scheme's case does not matter (RFC 9110 §11.1)."""
    if not authorization:
        return None
    scheme, _, value = authorization.partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None
