"""`AUTH_MODE=passthrough`: every client brings an upstream key of its own.

The key goes upstream as it came, also when there is none: the upstream decides whether it is valid.
No part of the key may be stored here. So events name it by a keyed hash, which is computed again
for each request.
"""

import math
from pathlib import Path
from typing import Final

from proxy.auth.authenticator import bearer
from proxy.auth.principal import Principal
from proxy.cache.access import CacheAccess
from proxy.crypto.fingerprints import Fingerprinter
from proxy.policy.policy import Policy

_POLICY: Final = Policy()


class PassThrough:
    """The access check that admits every request. One per worker. `folder`: `DATA_DIR`."""

    #: The client's credentials are the upstream's, wherever they stand, and go there as they came.
    relays_credentials = True

    def __init__(self, folder: Path, *, caches: bool = False) -> None:
        """`caches`: whether the responses of all clients are stored, each key's apart."""
        self._folder = folder
        self._caches = caches
        self._fingerprints: Fingerprinter | None = None

    def start(self) -> None:
        """Read the secret of the hashes, or make it. Called before the first request."""
        self._fingerprints = Fingerprinter.load(self._folder)

    def authenticate(self, authorization: str | None) -> Principal:
        """Return a principal without project, token, accounts and upstream key."""
        client_key = bearer(authorization) or authorization
        return Principal(
            token_id=None,
            token_mask=self._fingerprints.fingerprint(client_key)
            if client_key and self._fingerprints
            else None,
            project_id=None,
            upstream_key=None,
            expires_at=math.inf,
            token_active=True,
            project_active=True,
            policy=_POLICY,
            accounts=(),
            token_hash="",
            caching=self._caching(client_key) if self._caches else None,
        )

    def _caching(self, client_key: str | None) -> CacheAccess | None:
        """Without a key there is no client to tell from others, and nothing is stored."""
        if not client_key or self._fingerprints is None:
            return None
        return CacheAccess(mode="on", scope=self._fingerprints.scope(client_key), project_id="")

    def check_quota(self, principal: Principal, held: int = 0) -> None:
        """Do nothing: there is no quota."""

    def take_quota(self, principal: Principal, held: int = 0) -> None:
        """Do nothing: there is no quota."""

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None:
        """Do nothing: there is no account to charge."""
