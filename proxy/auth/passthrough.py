"""``AUTH_MODE=passthrough``: everybody brings a key of their own, and it is none of our business.

The key goes upstream as it came, also when there is none: whether it is good is said by the
upstream. The thing to get wrong: nothing of it may stay here, so what the events call it is a
keyed hash, reckoned anew for each request.
"""

import math
from pathlib import Path
from typing import Final

from proxy.auth.authenticator import bearer
from proxy.auth.principal import Principal
from proxy.crypto.fingerprints import Fingerprinter
from proxy.policy.policy import Policy

_POLICY: Final = Policy()


class PassThrough:
    """The access check that lets everybody in; one per worker. ``folder``: ``DATA_DIR``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fingerprints: Fingerprinter | None = None

    def start(self) -> None:
        """Before the first request: reads the secret of the hashes, or makes it."""
        self._fingerprints = Fingerprinter.load(self._folder)

    def authenticate(self, authorization: str | None) -> Principal:
        """Nobody we know: no project, no token, no accounts, no key to swap in."""
        key = bearer(authorization) or authorization
        return Principal(
            token_id=None,
            token_mask=self._fingerprints.fingerprint(key) if key and self._fingerprints else None,
            project_id=None,
            upstream_key=None,
            expires_at=math.inf,
            token_active=True,
            project_active=True,
            policy=_POLICY,
            accounts=(),
            token_hash="",
        )

    def admit(self, principal: Principal, held: int = 0) -> None:
        """There is nothing to count against."""

    def settle(self, principal: Principal, tokens: int, held: int = 0) -> None:
        """Nor anything to be charged."""
