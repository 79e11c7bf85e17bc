"""Who may enter where. Each guard is a function on a request's facts that raises or returns.

``web/__init__.py`` says which blueprint stands behind which.
"""

import hmac
from collections.abc import Callable, Sequence
from typing import Protocol

import flask

from proxy.auth.authenticator import bearer
from proxy.core.errors import ClientError
from proxy.gateway.request import client_of
from proxy.web.audit_trail import actors


class LoginLimiter(Protocol):
    """The throttle, as seen from here."""

    def check_login(self, address: str) -> None: ...

    def count_login(self, address: str) -> None: ...


class _BearerGuard:
    """Lets in who knows one of ``tokens`` (two while one is being rotated)."""

    _realm: str
    _message = ""
    _code: str

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def __call__(self) -> None:
        """A Flask ``before_request`` function. Raises ClientError 401."""
        given = (bearer(flask.request.headers.get("Authorization")) or "").encode()
        # All of them are compared, in constant time: neither which one matched nor how much of it
        # may show in the time this takes.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        if any(matches):
            self._enter(matches.index(True))
        else:
            self._refuse()
            raise ClientError(
                self._message,
                code=self._code,
                headers=[("WWW-Authenticate", f'Bearer realm="{self._realm}"')],
            )

    def _enter(self, number: int) -> None:
        """Let in by the token with this number."""

    def _refuse(self) -> None:
        """Told before the refusal."""


class ManagementGuard(_BearerGuard):
    """By ``MANAGEMENT_TOKEN``; refuses with ``invalid_management_token``, and with 429 an address
    that was refused too often: before anything is compared, so that guessing tells nothing.

    Who was let in is ``flask.g.actor``; ``refused`` is called with the code of each refused token.
    """

    _realm = "openai-proxy management"
    _code = "invalid_management_token"

    def __init__(
        self,
        tokens: Sequence[str],
        logins: LoginLimiter,
        trusted_proxies: int,
        refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        super().__init__(tokens)
        self._actors = actors(tokens)
        self._logins = logins
        self._trusted_proxies = trusted_proxies
        self._refused = refused

    def __call__(self) -> None:
        address = client_of(flask.request.environ, self._trusted_proxies)
        self._logins.check_login(address)
        try:
            super().__call__()
        except ClientError:
            self._logins.count_login(address)
            raise

    def _enter(self, number: int) -> None:
        flask.g.actor = self._actors[number]

    def _refuse(self) -> None:
        self._refused(self._code)


class MetricsGuard(_BearerGuard):
    """By ``METRICS_TOKEN``; refuses with ``invalid_token``. Without tokens it lets everybody in."""

    _realm = "openai-proxy metrics"
    _message = "Missing or wrong token: send `Authorization: Bearer <METRICS_TOKEN>`."
    _code = "invalid_token"

    def __call__(self) -> None:
        if self._tokens:
            super().__call__()
