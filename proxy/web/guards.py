"""The guards of blueprints. Each is called before a request, and raises or returns.

The table in ``web/__init__.py`` shows which guard protects which blueprint.
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
    """The rate limit for failed logins."""

    def check_login(self, address: str) -> None: ...

    def count_login(self, address: str) -> None: ...


class _BearerGuard:
    """Admits requests with one of ``tokens`` (there are two while one is being rotated)."""

    _realm: str
    _message = ""
    _code: str

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]

    def __call__(self) -> None:
        """A Flask ``before_request`` function. Raises ClientError 401."""
        given = (bearer(flask.request.headers.get("Authorization")) or "").encode()
        # All tokens are compared, in constant time: the duration must show neither which one
        # matched nor how much of it.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        if any(matches):
            self._admitted(matches.index(True))
        else:
            self._denied()
            raise ClientError(
                self._message,
                code=self._code,
                headers=[("WWW-Authenticate", f'Bearer realm="{self._realm}"')],
            )

    def _admitted(self, number: int) -> None:
        """Called when the token with this index matched."""

    def _denied(self) -> None:
        """Called before the refusal."""


class ManagementGuard(_BearerGuard):
    """Checks ``MANAGEMENT_TOKEN``. Refuses with ``invalid_management_token``.

    An address that was refused too often gets a 429 before any comparison, so that guessing reveals
    nothing. Sets ``flask.g.actor`` on admission. ``refused`` is called with the code of each
    refused token.
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

    def _admitted(self, number: int) -> None:
        flask.g.actor = self._actors[number]

    def _denied(self) -> None:
        self._refused(self._code)


class MetricsGuard(_BearerGuard):
    """Checks ``METRICS_TOKEN``. Refuses with ``invalid_token``. Without tokens it admits all."""

    _realm = "openai-proxy metrics"
    _message = "Missing or wrong token: send `Authorization: Bearer <METRICS_TOKEN>`."
    _code = "invalid_token"

    def __call__(self) -> None:
        if self._tokens:
            super().__call__()
